# NAME MODE SHA256 PART: stdin becomes the file NAME, by way of PART.
set -u
umask 077
part=$4
trap 'trap "" HUP INT TERM; rm -f "$part"' EXIT
trap '' PIPE # there may be nobody left to complain to
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
if [ -d "$1" ]; then
	echo "$1 is a directory" >&2
	exit 1
fi
mkdir -p "${part%/*}/" || exit 1
said=$(dd of="$part" bs=1048576 conv=fsync 2>&1) || {
	printf '%s\n' "$said" >&2
	exit 1
}
sum=$(sha256sum <"$part") || exit 1
if [ "${sum%% *}" != "$3" ]; then
	echo "what arrived has the digest sha256:${sum%% *}, not sha256:$3" >&2
	exit 1
fi
chmod "$2" "$part" || exit 1
mv -f "$part" "$1" || exit 1
sync "${part%/*}/" 2>/dev/null || sync
