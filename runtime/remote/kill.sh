marked() {
	grep -lsF "$1" /proc/[0-9]*/environ | while IFS=/ read -r _ _ pid _; do echo "$pid"; done
}
pids=$(marked "$1")
[ -n "$pids" ] || exit 3
kill -TERM $pids 2>/dev/null
for _ in 1 2 3 4 5 6 7 8 9 10; do
	pids=$(marked "$1")
	[ -n "$pids" ] || exit 0
	sleep 0.2 2>/dev/null || sleep 1
done
for _ in 1 2 3 4 5 6 7 8 9 10; do
	kill -KILL $pids 2>/dev/null
	pids=$(marked "$1")
	[ -n "$pids" ] || exit 0
	sleep 0.1 2>/dev/null || sleep 1
done
exit 1
