# Number theory on a stack of its own.
kind="scientific" packages="pari-gp"
run() { echo 'default(parisizemax,"1G");default(parisize,"256M");v=vector(400000,i,i*7919%1000003);w=vecsort(v);print(sum(i=1,#w,i*w[i])%1000000007);print(#factor(2^193-1)~)' | "$@" gp -q -f; }
