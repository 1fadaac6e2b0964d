#!/bin/sh
# A sudo for tests: -n, -S, -p PROMPT and -- as the real one has them.
here=${0%/*}
quiet= input= prompt='[sudo] password: '
while [ $# -gt 0 ]; do
	case $1 in
	-n) quiet=1 ;;
	-S) input=1 ;;
	-p) prompt=$2 && shift ;;
	--) shift && break ;;
	*) break ;;
	esac
	shift
done
read -r policy <"$here/sudo.policy"
case $policy in
refuse)
	echo 'Sorry, this user may not run sudo here.' >&2
	exit 1
	;;
ask)
	if [ -n "$quiet" ] || [ -z "$input" ]; then
		echo 'sudo: a password is required' >&2
		exit 1
	fi
	read -r want <"$here/sudo.password"
	tries=0
	while :; do
		printf %s "$prompt" >&2
		if ! IFS= read -r got; then
			echo 'sudo: no password was provided' >&2
			exit 1
		fi
		[ "$got" != "$want" ] || break
		tries=$((tries + 1))
		if [ "$tries" -ge 3 ]; then
			echo 'sudo: 3 incorrect password attempts' >&2
			exit 1
		fi
		echo 'Sorry, try again.' >&2
	done
	;;
esac
# secure_path lacks /usr/local/bin, as on Red Hat's systems; commands bring a PATH of their own
exec env -i "PATH=$PATH" SUDO_USER=tester "$@"
