printf 'only text\n' | gzip -n > text.gz; : > empty.tar; mkdir d; head -c 3000 /dev/zero > d/f
printf '\037\213\010garbage' > half.tar.gz
