# DIR PART: stdin, a tar stream of tree/ and sums, becomes the directory DIR, by way of PART.
set -u
umask 077
dir=$1 part=$2
trap 'trap "" HUP INT TERM; rm -rf "$part"' EXIT
trap '' PIPE # there may be nobody left to complain to
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
mkdir -p "$part" || exit 1
tar -x -p -f - -C "$part" || exit 1
cd "$part/tree" || exit 1
if [ ! -f ../sums ]; then
	echo "the stream ended early" >&2
	exit 1
fi
if [ -s ../sums ] && ! sha256sum -c ../sums >../said 2>&1; then
	grep -v ': OK$' ../said >&2
	exit 1
fi
cd / || exit 1
sync -f "$part/tree" 2>/dev/null || sync
if [ -e "$dir" ] || [ -L "$dir" ]; then
	mv "$dir" "$part/old" || exit 1
	mv "$part/tree" "$dir" || {
		mv "$part/old" "$dir"
		exit 1
	}
else
	mv "$part/tree" "$dir" || exit 1
fi
sync "${dir%/*}/" 2>/dev/null || sync
