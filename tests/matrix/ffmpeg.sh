# Video: aligned buffers, SIMD, many threads.
kind="media" packages="ffmpeg"
run() { "$@" ffmpeg -v error -f lavfi -i testsrc2=size=1280x720:rate=25:duration=4 -c:v libx264 -preset medium -threads 2 -flags +bitexact -f h264 - | md5sum; return "${PIPESTATUS[0]}"; }
