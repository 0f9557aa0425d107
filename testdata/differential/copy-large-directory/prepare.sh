for i in $(seq 40); do mkdir -p tree/$i; for j in $(seq 50); do echo $i.$j > tree/$i/$j; done; done
