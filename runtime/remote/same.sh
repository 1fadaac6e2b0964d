# NAME MODE SHA256: is the file there already?
set -u
[ -f "$1" ] && [ ! -L "$1" ] || exit 0
sum=$(sha256sum <"$1") || exit 1
[ "${sum%% *}" = "$3" ] || exit 0
chmod "$2" "$1" || exit 1
echo same
