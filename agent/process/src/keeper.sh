# Kills the group $1, and what has $2 in its environment, when the time that was read last is over; ends with 3 then.
# A time is hundredths of a second since the machine booted. Ends when the agent closes the pipe, or is dead.
trap '' HUP INT TERM
{
  while sleep 0.25; do echo tick; done &
  cat
  echo end
  kill -s KILL $!
} | {
  until=''
  while read -r line; do
    case $line in
      end) exit 0 ;;
      tick)
        [ -z "$until" ] && continue
        read -r now rest </proc/uptime
        [ "${now%.*}${now#*.}" -lt "$until" ] || break
        ;;
      *) until=$line ;;
    esac
  done
  round=0
  while [ "$round" -lt 50 ]; do
    left=''
    # Not every shell wants "--" before a group, not every one does without.
    { kill -s KILL -- "-$1" || kill -s KILL "-$1"; } && left=yes
    for file in $(grep -lszxF -e "$2" /proc/[0-9]*/environ); do
      process=${file#/proc/}
      kill -s KILL "${process%/environ}" && left=yes
    done
    [ -z "$left" ] && break
    round=$((round + 1))
    sleep 0.1
  done
  exit 3
}
