# Reads "+ group" and "- group" until the agent that writes is dead; then kills what it left.
trap '' HUP INT TERM
groups=' '
while read -r what group; do
  case $what in
    +) groups="$groups$group " ;;
    -) case $groups in *" $group "*) groups="${groups%%" $group "*} ${groups#*" $group "}" ;; esac ;;
  esac
done
round=0
while [ "$round" -lt 50 ]; do
  left=''
  for group in $groups; do
    # Not every shell wants "--" before a group, not every one does without.
    { kill -s KILL -- "-$group" || kill -s KILL "-$group"; } && left=yes
  done
  for file in $(grep -lszF -e "$1" /proc/[0-9]*/environ); do
    process=${file#/proc/}
    kill -s KILL "${process%/environ}" && left=yes
  done
  [ -z "$left" ] && exit 0
  round=$((round + 1))
  sleep 0.1
done
