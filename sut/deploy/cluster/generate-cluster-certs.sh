#!/usr/bin/env bash
# Makes the authorities and certificates of a cluster, and rotates them. Touches no host.
set -euo pipefail
umask 077
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=lib.bash
source "$here/lib.bash"

usage() {
	cat <<'EOF'
Usage: generate-cluster-certs.sh --nodes FILE [--out DIR] [ACTION] [NODE...]

Makes two authorities, one for routes and one for what clients see, and for each node a certificate from each: the route certificate is good
for both sides of a connection, as nodes both dial and accept. Names and addresses of the node are in the certificate. Files are written below
DIR, readable for their owner alone. Also makes the routes' password, once. Only this machine is changed; deploy-cluster.sh copies.

Without an action: makes what is missing and leaves alone what is there. An authority is never replaced.

Actions:
  --rotate             new keys and certificates for the nodes named (all if none is), from the authorities that are there
  --new-ca KIND        KIND is route or client. First of three steps to another authority: make it, and trust both
  --switch-ca KIND     second step: new certificates for all nodes, from the new authority; both stay trusted
  --drop-old-ca KIND   third step: trust the new authority alone
  --check              print when certificates expire; fails when one does within --warn days
Deploy (deploy-cluster.sh certs) after each action, on all nodes, before the next one.

Options:
  --nodes FILE   the list of nodes (see nodes.env)
  --out DIR      where the files are (default: secrets, beside this script)
  --days N       lifetime of nodes' certificates (default 397)
  --warn N       for --check (default 30)
  --help
EOF
}

readonly ca_days=3650
nodes_file='' out=$here/secrets action=fill kind='' days=397 warn=30
declare -a only=()
while (($#)); do
	case $1 in
	--nodes | --out | --days | --warn)
		(($# > 1)) || usage_error "$1 needs a value"
		case $1 in
		--nodes) nodes_file=$2 ;;
		--out) out=$2 ;;
		--days) days=$2 ;;
		--warn) warn=$2 ;;
		esac
		shift
		;;
	--new-ca | --switch-ca | --drop-old-ca)
		[[ $action == fill ]] || usage_error "more than one action"
		[[ ${2:-} == route || ${2:-} == client ]] || usage_error "$1 needs route or client"
		action=${1#--} kind=$2
		shift
		;;
	--rotate | --check)
		[[ $action == fill ]] || usage_error "more than one action"
		action=${1#--}
		;;
	--help)
		usage
		exit 0
		;;
	-*) usage_error "there is no option $1" ;;
	*) only+=("$1") ;;
	esac
	shift
done
[[ -n $nodes_file ]] || usage_error "--nodes is required"
[[ $days =~ ^[1-9][0-9]{0,3}$ && $warn =~ ^[0-9]{1,4}$ ]] || usage_error "--days and --warn are numbers of days"
if ((${#only[@]})) && [[ $action != rotate ]]; then usage_error "only --rotate takes names of nodes"; fi
need openssl grep
read_nodes "$nodes_file"
chosen_nodes "${only[@]+"${only[@]}"}"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

new_key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1" 2>/dev/null; }

# make_ca KIND FILE: an authority in FILE.crt and FILE.key, which must not be there.
make_ca() {
	local title=$1 file=$2
	[[ ! -e $file.crt && ! -e $file.key ]] || die "$file is there: an authority is never replaced"
	new_key "$work/ca.key"
	openssl req -x509 -new -sha256 -key "$work/ca.key" -days "$ca_days" -subj "/CN=${SETTING[CLUSTER_NAME]} $title authority" \
		-addext 'basicConstraints=critical,CA:TRUE,pathlen:0' -addext 'keyUsage=critical,keyCertSign,cRLSign' -out "$work/ca.crt"
	mv "$work/ca.key" "$file.key"
	mv "$work/ca.crt" "$file.crt"
	say "made the $title authority: $file.crt"
}

# san NODE KIND: subject alternative names. Clients may also come through the loopback address of the node itself.
san() {
	local hosts=("$1" "${NODE_ADDRESS[$1]}" "${NODE_ROUTE[$1]}") h seen=' ' list=''
	if [[ $2 == client ]]; then hosts=("$1" "${NODE_ADDRESS[$1]}" localhost 127.0.0.1); fi
	for h in "${hosts[@]}"; do
		[[ $seen != *" $h "* ]] || continue
		seen+="$h "
		if [[ $h =~ $ipv4_form ]]; then list+=",IP:$h"; else list+=",DNS:$h"; fi
	done
	printf '%s' "${list#,}"
}

# issue NODE KIND: a key and a certificate. The pair is put in place only when it is whole.
issue() {
	local node=$1 what=$2 usage=serverAuth dir=$out/$1
	if [[ $what == route ]]; then usage=serverAuth,clientAuth; fi
	mkdir -p "$dir"
	new_key "$work/$what.key"
	openssl req -new -sha256 -key "$work/$what.key" -subj "/CN=$node" -out "$work/$what.csr"
	printf '%s\n' 'basicConstraints=critical,CA:FALSE' 'authorityKeyIdentifier=keyid' 'subjectKeyIdentifier=hash' 'keyUsage=critical,digitalSignature' "extendedKeyUsage=$usage" \
		"subjectAltName=$(san "$node" "$what")" >"$work/$what.ext"
	openssl x509 -req -sha256 -in "$work/$what.csr" -CA "$out/$what-ca.crt" -CAkey "$out/$what-ca.key" -set_serial "0x40$(openssl rand -hex 15)" \
		-days "$days" -extfile "$work/$what.ext" -out "$work/$what.crt" 2>/dev/null
	openssl verify -CAfile "$out/$what-ca.crt" "$work/$what.crt" >/dev/null || die "the new $what certificate of $node does not verify"
	mv "$work/$what.key" "$dir/$what.key"
	mv "$work/$what.crt" "$dir/$what.crt"
	say "made the $what certificate of $node, good for $days days: $(san "$node" "$what")"
}

# trust KIND FILE...: what nodes and clients believe.
trust() {
	local what=$1
	shift
	cat "$@" >"$work/trust"
	mv "$work/trust" "$out/$what-trust.crt"
}

fill() {
	local what node
	for what in route client; do
		if [[ ! -e $out/$what-ca.crt ]]; then
			make_ca "$what" "$out/$what-ca"
			trust "$what" "$out/$what-ca.crt"
		fi
		for node in "${NODE_NAMES[@]}"; do
			if [[ -e $out/$node/$what.crt ]]; then say "kept the $what certificate of $node"; else issue "$node" "$what"; fi
		done
	done
	if [[ ! -e $out/cluster.pass ]]; then
		openssl rand -hex 24 >"$work/cluster.pass"
		mv "$work/cluster.pass" "$out/cluster.pass"
		say "made the routes' password: $out/cluster.pass"
	fi
}

rotate() {
	local node what
	for what in route client; do
		[[ -e $out/$what-ca.key ]] || die "$out/$what-ca.key is not there: run without an action first"
	done
	for node in "${CHOSEN[@]}"; do
		for what in route client; do issue "$node" "$what"; done
	done
}

new_ca() {
	[[ -e $out/$kind-ca.crt ]] || die "there is no $kind authority yet: run without an action first"
	[[ ! -e $out/$kind-ca-old.crt ]] || die "the change before this one is not finished: --drop-old-ca $kind"
	make_ca "$kind" "$out/$kind-ca-next"
	trust "$kind" "$out/$kind-ca-next.crt" "$out/$kind-ca.crt"
	say "both $kind authorities are trusted: deploy, then --switch-ca $kind"
}

switch_ca() {
	[[ -e $out/$kind-ca-next.crt ]] || die "there is no next $kind authority: --new-ca $kind first"
	mv "$out/$kind-ca.crt" "$out/$kind-ca-old.crt"
	mv "$out/$kind-ca.key" "$out/$kind-ca-old.key"
	mv "$out/$kind-ca-next.crt" "$out/$kind-ca.crt"
	mv "$out/$kind-ca-next.key" "$out/$kind-ca.key"
	local node
	for node in "${NODE_NAMES[@]}"; do issue "$node" "$kind"; done
	say "the nodes' certificates are from the new $kind authority: deploy, then --drop-old-ca $kind"
}

drop_old_ca() {
	[[ -e $out/$kind-ca-old.crt ]] || die "there is no old $kind authority"
	trust "$kind" "$out/$kind-ca.crt"
	rm "$out/$kind-ca-old.crt" "$out/$kind-ca-old.key"
	say "the old $kind authority is gone: deploy"
}

check() {
	local f late=0
	for f in "$out"/*-ca.crt "$out"/*/route.crt "$out"/*/client.crt; do
		[[ -e $f ]] || die "there are no certificates in $out"
		printf '%s  %s\n' "$(openssl x509 -in "$f" -noout -enddate | cut -d= -f2)" "${f#"$out"/}"
		if ! openssl x509 -in "$f" -noout -checkend "$((warn * 86400))" >/dev/null; then
			late=$((late + 1))
			printf '  expires within %d days\n' "$warn"
		fi
	done
	((late == 0)) || die "$late certificates expire within $warn days: --rotate"
}

if [[ $action != check ]]; then mkdir -p "$out"; fi
case $action in
fill) fill ;;
rotate) rotate ;;
new-ca) new_ca ;;
switch-ca) switch_ca ;;
drop-old-ca) drop_old_ca ;;
check) check ;;
esac
