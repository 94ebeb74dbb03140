# Pictures as arrays of pixels, OpenMP.
kind="media" packages="imagemagick"
run() { "$@" /usr/bin/convert-im6.q16 -size 3000x3000 plasma:red-blue -seed 7 -colorspace Gray -resize 60% -rotate 30 -threshold 50% -format '%w %h\n' info:; }
