# shellcheck shell=bash
# Shared by the scripts of this folder: reads nodes.env, speaks to hosts. Sourced, never run.

die() {
	printf '%s: %s\n' "${0##*/}" "$*" >&2
	exit 1
}

usage_error() {
	printf '%s: %s\nSee %s --help.\n' "${0##*/}" "$*" "${0##*/}" >&2
	exit 2
}

say() { printf '%s\n' "$*"; }

# need PROGRAM...: refuses to begin without them.
need() {
	local p
	for p in "$@"; do
		command -v "$p" >/dev/null 2>&1 || die "the program '$p' is not on this machine's PATH"
	done
}

# Settings of nodes.env, and one entry per node in each of the arrays.
declare -A SETTING=()
NODE_NAMES=()
declare -A NODE_ADDRESS=() NODE_SSH=() NODE_ROUTE=()

readonly name_form='^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$'
readonly host_form='^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$'
readonly ipv4_form='^[0-9]{1,3}(\.[0-9]{1,3}){3}$'
readonly ssh_form='^([A-Za-z0-9_][A-Za-z0-9_.-]*@)?[A-Za-z0-9][A-Za-z0-9.-]*$'

# read_nodes FILE: parses it as data and checks every value.
read_nodes() {
	local file=$1 line key value n=0
	[[ -r $file ]] || die "cannot read $file"
	local placeholder
	placeholder=$(grep -vE '^[[:space:]]*#' "$file" | grep -oE '<[^>]*>' | head -n 1 || true)
	[[ -z $placeholder ]] || die "$file still holds the placeholder $placeholder"
	while IFS= read -r line || [[ -n $line ]]; do
		n=$((n + 1))
		line=${line%%#*}
		line=${line%"${line##*[![:space:]]}"}
		[[ -n $line ]] || continue
		if [[ $line =~ ^NODE[[:space:]] ]]; then
			read_node "$file:$n" "${line#NODE}"
			continue
		fi
		[[ $line =~ ^([A-Z_]+)=([A-Za-z0-9._:-]*)$ ]] || die "$file:$n is neither NAME=value nor a NODE row"
		key=${BASH_REMATCH[1]} value=${BASH_REMATCH[2]}
		case $key in
		CLUSTER_NAME | ROUTE_NETWORK | CLIENT_PORT | ROUTE_PORT | HTTP_PORT | HTTP_BIND | MONITOR_PORT | REPLICAS | SYNC | MAX_STORE) ;;
		*) die "$file:$n: there is no setting $key" ;;
		esac
		[[ -z ${SETTING[$key]+set} ]] || die "$file:$n: $key is set twice"
		SETTING[$key]=$value
	done <"$file"
	check_settings "$file"
}

read_node() {
	local where=$1 name address ssh route extra
	read -r name address ssh route extra <<<"$2"
	[[ -n $ssh && -z $extra ]] || die "$where: want NODE name address ssh-target [route-address]"
	[[ $name =~ $name_form ]] || die "$where: '$name' is not a node's name"
	[[ $address =~ $host_form ]] || die "$where: '$address' is neither a name nor an IPv4 address"
	[[ $ssh =~ $ssh_form ]] || die "$where: '$ssh' is not user@host"
	route=${route:-$address}
	[[ $route =~ $host_form ]] || die "$where: '$route' is neither a name nor an IPv4 address"
	local other
	for other in "${NODE_NAMES[@]+"${NODE_NAMES[@]}"}"; do
		[[ $other != "$name" ]] || die "$where: $name is there twice"
		[[ ${NODE_ROUTE[$other]} != "$route" ]] || die "$where: $other has the route address $route already"
	done
	NODE_NAMES+=("$name")
	NODE_ADDRESS[$name]=$address NODE_SSH[$name]=$ssh NODE_ROUTE[$name]=$route
}

check_settings() {
	local file=$1 key value
	for key in CLUSTER_NAME ROUTE_NETWORK CLIENT_PORT ROUTE_PORT HTTP_PORT HTTP_BIND REPLICAS SYNC MAX_STORE; do
		[[ -n ${SETTING[$key]:-} ]] || die "$file: $key is missing"
	done
	[[ ${SETTING[CLUSTER_NAME]} =~ $name_form ]] || die "$file: CLUSTER_NAME '${SETTING[CLUSTER_NAME]}' is not a name"
	for key in CLIENT_PORT ROUTE_PORT HTTP_PORT MONITOR_PORT; do
		value=${SETTING[$key]:-}
		if [[ $key == MONITOR_PORT && -z $value ]]; then continue; fi
		if ! [[ $value =~ ^[1-9][0-9]{0,4}$ ]] || ((value > 65535)); then
			die "$file: $key '$value' is not a port"
		fi
	done
	[[ ${SETTING[ROUTE_NETWORK]} =~ ^(private|public)$ ]] || die "$file: ROUTE_NETWORK is private or public"
	[[ ${SETTING[HTTP_BIND]} =~ ^(loopback|node)$ ]] || die "$file: HTTP_BIND is loopback or node"
	[[ ${SETTING[REPLICAS]} =~ ^(1|3|5)$ ]] || die "$file: REPLICAS is 1, 3 or 5"
	((${#NODE_NAMES[@]} == 3 || ${#NODE_NAMES[@]} == 5)) || die "$file lists ${#NODE_NAMES[@]} nodes; a cluster has 3 or 5"
	((SETTING[REPLICAS] <= ${#NODE_NAMES[@]})) || die "$file: REPLICAS is more than there are nodes"
	[[ ${SETTING[ROUTE_NETWORK]} == private ]] || return 0
	local name
	for name in "${NODE_NAMES[@]}"; do
		private_address "${NODE_ROUTE[$name]}" ||
			die "$file: ROUTE_NETWORK is private, and the route address ${NODE_ROUTE[$name]} of $name is not a private one"
	done
}

# private_address ADDRESS: RFC 1918, RFC 6598 and loopback.
private_address() {
	[[ $1 =~ $ipv4_form ]] || return 1
	local a b
	IFS=. read -r a b _ <<<"$1"
	((a == 10 || a == 127 || (a == 172 && b >= 16 && b <= 31) || (a == 192 && b == 168) || (a == 100 && b >= 64 && b <= 127)))
}

# chosen_nodes NAME...: the nodes named, or all of them; into CHOSEN.
CHOSEN=()
chosen_nodes() {
	local n
	CHOSEN=()
	if (($# == 0)); then
		CHOSEN=("${NODE_NAMES[@]}")
		return
	fi
	for n in "$@"; do
		[[ -n ${NODE_SSH[$n]+set} ]] || die "there is no node '$n' in the list of nodes"
		CHOSEN+=("$n")
	done
}

# http_host NODE: where its health endpoints listen.
http_host() {
	if [[ ${SETTING[HTTP_BIND]} == node ]]; then
		printf '%s' "${NODE_ADDRESS[$1]}"
	else
		printf '127.0.0.1'
	fi
}

# Speaking to hosts. SSH_CONFIG is set by --ssh-config.
SSH_CONFIG=
ssh_to() {
	local node=$1
	shift
	ssh ${SSH_CONFIG:+-F "$SSH_CONFIG"} -o BatchMode=yes -o ConnectTimeout=10 -o ServerAliveInterval=5 -o ServerAliveCountMax=3 "${NODE_SSH[$node]}" "$@"
}

# root_shell NODE: the command that reads a script from its standard input as root.
root_shell() {
	if [[ ${NODE_SSH[$1]} == root@* ]]; then
		printf 'bash -s'
	else
		printf 'sudo -n bash -s'
	fi
}

# remote NODE <SCRIPT: runs it as root on the node, under strict mode.
remote() {
	local node=$1 shell
	shell=$(root_shell "$node")
	{
		printf 'set -euo pipefail\n'
		cat
	} | ssh_to "$node" "$shell"
}

# change NODE WHAT <SCRIPT: like remote, but only with --yes; otherwise it prints what it would do. YES is set by --yes.
YES=
change() {
	local node=$1 what=$2 script
	script=$(cat)
	if [[ -n $YES ]]; then
		say "[$node] $what"
		remote "$node" <<<"$script"
		return
	fi
	printf '[%s] would %s; as root on %s:\n' "$node" "$what" "${NODE_SSH[$node]}"
	printf '%s\n' "$script" | sed 's/^/    | /'
}

# remote_http: prints shell code that defines http_get, which asks a node's own HTTP endpoint with no program but bash and cat.
remote_http() {
	cat <<'EOF'
http_get() { # HOST PORT PATH: prints the body; fails unless the status is 200
	local status line
	{ exec 9<>"/dev/tcp/$1/$2"; } 2>/dev/null || return 1
	printf 'GET %s HTTP/1.0\r\nHost: %s\r\n\r\n' "$3" "$1" >&9
	IFS=' ' read -r -t 5 _ status _ <&9 || { exec 9>&-; return 1; }
	while IFS= read -r -t 5 line <&9 && [[ -n ${line%$'\r'} ]]; do :; done
	timeout 5 cat <&9 || status=0
	exec 9>&-
	[[ $status == 200 ]]
}
EOF
}
