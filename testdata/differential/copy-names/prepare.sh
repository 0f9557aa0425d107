printf 2 > 'q"uote'
printf 7 > 'tree/line
end'
printf 8 > 'tree/back\slash'
printf 9 > "tree/$(printf '\001\177\t')"
printf 10 > "tree/$(printf 'n%.0s' $(seq 200))"
printf 11 > "tree/*?[x]"
printf 12 > "tree/.wh-not"
printf 13 > '$'
d=tree; for i in 1 2 3; do d=$d/$(printf 'deep%.0s' $(seq 30)); done; mkdir -p $d; printf 14 > $d/leaf
