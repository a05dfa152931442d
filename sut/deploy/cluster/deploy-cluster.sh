#!/usr/bin/env bash
# Installs and operates a cluster of membershipd on hosts with systemd, over ssh. A dry run unless --yes is given.
set -euo pipefail
umask 077
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=lib.bash
source "$here/lib.bash"

usage() {
	cat <<'EOF'
Usage: deploy-cluster.sh ACTION --nodes FILE [OPTION...] [NODE...]

Without --yes nothing is changed, on no host: what would be done is printed, command for command. A list of nodes with placeholders is refused.

Actions (on the nodes named; all if none is):
  install   put binary, unit, settings and secrets in place, and enable the unit. Does not start. Refused where the daemon runs.
  start     start all of them together, and wait until each is ready. The first start of a cluster needs all of its nodes.
  status    ask each node: ready, quorum, leaders, posture. Changes nothing, and needs no --yes.
  upgrade   another binary (and settings), one node at a time; the next one only when every node of the cluster is ready again
  config    settings and secrets without another binary, one node at a time, with a restart of each
  certs     certificates and keys alone, one node at a time, read again by the running daemon: no restart
  stop      stop all of them together

Options:
  --nodes FILE            the list of nodes (see nodes.env)
  --secrets DIR           what generate-cluster-certs.sh wrote (default: secrets, beside this script)
  --binary FILE           the membershipd to install (default: built from this source tree, the way the harness builds it)
  --proof DIR             bundles of 'chaos run', or a folder of them; may be given more than once. 'chaos gate' must pass for the very binary
                          that is installed.
  --statement FILE        instead of --proof: what 'chaos gate --sign' wrote elsewhere for this binary; needs --proof-key
  --proof-key FILE        public key that must have signed the bundles, or the statement; may be given more than once
  --policy FILE           policy for the gate (default: its built-in one)
  --chaos FILE            the chaos command (default: bin/chaos of this source tree, or the one on PATH)
  --without-proof REASON  install without; REASON is logged on every host
  --ssh-config FILE       for ssh -F
  --wait SECONDS          how long to wait for readiness (default 120)
  --yes                   do it
  --help

On each host /opt/unibus/deploy.log tells who installed which binary when, and on what proof.
EOF
}

readonly prefix=/opt/unibus unit=membershipd-cluster.service
tree=$(cd "$here/../../.." && pwd)
readonly tree
action='' nodes_file='' secrets=$here/secrets binary='' policy='' chaos='' reason='' wait_seconds=120
statement=''
declare -a proofs=() keys=() only=()
while (($#)); do
	case $1 in
	--nodes | --secrets | --binary | --proof | --statement | --proof-key | --policy | --chaos | --without-proof | --ssh-config | --wait)
		(($# > 1)) || usage_error "$1 needs a value"
		case $1 in
		--nodes) nodes_file=$2 ;;
		--secrets) secrets=$2 ;;
		--binary) binary=$2 ;;
		--proof) proofs+=("$2") ;;
		--statement) statement=$2 ;;
		--proof-key) keys+=(--key "$2") ;;
		--policy) policy=$2 ;;
		--chaos) chaos=$2 ;;
		--without-proof) reason=$2 ;;
		--ssh-config) SSH_CONFIG=$2 ;;
		--wait) wait_seconds=$2 ;;
		esac
		shift
		;;
	--yes) YES=1 ;;
	--help)
		usage
		exit 0
		;;
	-*) usage_error "there is no option $1" ;;
	*) if [[ -z $action ]]; then action=$1; else only+=("$1"); fi ;;
	esac
	shift
done
case $action in
install | start | status | upgrade | config | certs | stop) ;;
'') usage_error "an action is missing" ;;
*) usage_error "there is no action $action" ;;
esac
[[ -n $nodes_file ]] || usage_error "--nodes is required"
[[ $wait_seconds =~ ^[1-9][0-9]{0,4}$ ]] || usage_error "--wait is a number of seconds"
need ssh tar sha256sum sed grep
read_nodes "$nodes_file"
chosen_nodes "${only[@]+"${only[@]}"}"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The binary and its proof.

digest=''
provenance=''
find_binary() {
	if [[ -z $binary ]]; then
		need go
		binary=$work/build/membershipd
		build "$binary"
	fi
	[[ -f $binary && -x $binary ]] || die "$binary is not a program"
	digest=$(sha256sum "$binary" | cut -d' ' -f1)
	say "binary: $binary, sha256:$digest"
}

# build FILE: static, and byte for byte what the harness builds from the same tree.
build() {
	local version
	version=$(git -C "$tree" describe --always --dirty --tags --abbrev=12 2>/dev/null || printf devel)
	say "building $version from $tree"
	mkdir -p "$(dirname "$1")"
	(cd "$tree" && CGO_ENABLED=0 GOOS=linux go build -trimpath -buildvcs=false -ldflags="-s -w -X main.version=$version" -o "$1" ./cmd/membershipd)
}

find_chaos() {
	if [[ -n $chaos ]]; then return; fi
	chaos=$tree/bin/chaos
	if [[ ! -x $chaos ]]; then chaos=$(command -v chaos || true); fi
	[[ -n $chaos ]] || die "the chaos command, which checks proofs, is not there: build it, or name it with --chaos"
}

check_proof() {
	if [[ -n $reason ]]; then
		[[ ${#proofs[@]} == 0 && -z $statement ]] || usage_error "--proof, --statement and --without-proof exclude each other"
		[[ $reason =~ ^[[:print:]]*[^[:space:]][[:print:]]*$ && ${#reason} -ge 8 && ${#reason} -le 500 ]] ||
			die "--without-proof needs a reason: one line, 8 to 500 characters"
		provenance="WITHOUT PROOF: $reason"
		say "$provenance"
		return
	fi
	local -a ask=()
	if [[ -n $statement ]]; then
		((${#proofs[@]} == 0)) || usage_error "--proof, --statement and --without-proof exclude each other"
		((${#keys[@]})) || usage_error "--statement needs --proof-key: without a key anybody could have made it"
		ask=(admit "${keys[@]}" --subject "$binary" "$statement")
	else
		((${#proofs[@]})) || die "a proof is demanded: --proof DIR with bundles about sha256:$digest, --statement FILE, or --without-proof REASON"
		ask=(gate "${keys[@]+"${keys[@]}"}" --subject "$binary")
		[[ -z $policy ]] || ask+=(--policy "$policy")
		ask+=("${proofs[@]}")
	fi
	find_chaos
	say "asking the gate: $chaos ${ask[*]}"
	"$chaos" "${ask[@]}" >"$work/gate" 2>"$work/gate.err" || {
		sed 's/^/    /' "$work/gate" "$work/gate.err" >&2
		die "the gate does not pass sha256:$digest: nothing is installed"
	}
	tail -n 1 "$work/gate"
	provenance="proof: $(tail -n 1 "$work/gate")"
}

# What a node is given.

cluster_env() {
	local node=$1 n routes='' bind=0.0.0.0
	for n in "${NODE_NAMES[@]}"; do routes+=,${NODE_ROUTE[$n]}:${SETTING[ROUTE_PORT]}; done
	if [[ ${SETTING[ROUTE_NETWORK]} == private ]]; then bind=${NODE_ROUTE[$node]}; fi
	cat <<EOF
# Settings of node $node, written by deploy-cluster.sh: change nodes.env instead. No secrets.
UNIBUS_NAME=$node
UNIBUS_CLUSTER_NAME=${SETTING[CLUSTER_NAME]}
UNIBUS_DATA_DIR=/var/lib/unibus/data
UNIBUS_INTERNAL_ID_FILE=/var/lib/unibus/internal.nk
UNIBUS_CLIENT_LISTEN=0.0.0.0:${SETTING[CLIENT_PORT]}
UNIBUS_CLIENT_ADVERTISE=${NODE_ADDRESS[$node]}:${SETTING[CLIENT_PORT]}
UNIBUS_CLUSTER_LISTEN=$bind:${SETTING[ROUTE_PORT]}
UNIBUS_CLUSTER_ADVERTISE=${NODE_ROUTE[$node]}:${SETTING[ROUTE_PORT]}
UNIBUS_ROUTES=${routes#,}
UNIBUS_HTTP_LISTEN=$(http_host "$node"):${SETTING[HTTP_PORT]}
UNIBUS_STORE=kv
UNIBUS_REPLICAS=${SETTING[REPLICAS]}
UNIBUS_SYNC=${SETTING[SYNC]}
UNIBUS_MAX_STORE=${SETTING[MAX_STORE]}
UNIBUS_ENFORCE=true
UNIBUS_CLUSTER_PASS_FILE=$prefix/secrets/cluster.pass
UNIBUS_TLS_CERT=$prefix/secrets/certs/client.crt
UNIBUS_TLS_KEY=$prefix/secrets/certs/client.key
UNIBUS_TLS_CA=$prefix/secrets/certs/client-trust.crt
UNIBUS_TLS_CLIENT_AUTH=none
UNIBUS_CLUSTER_TLS_CERT=$prefix/secrets/certs/route.crt
UNIBUS_CLUSTER_TLS_KEY=$prefix/secrets/certs/route.key
UNIBUS_CLUSTER_TLS_CA=$prefix/secrets/certs/route-trust.crt
EOF
	if [[ -n ${SETTING[MONITOR_PORT]:-} ]]; then say "UNIBUS_MONITOR_LISTEN=$(http_host "$node"):${SETTING[MONITOR_PORT]}"; fi
	if [[ -e $secrets/first-admins.json ]]; then say "UNIBUS_SEED_FILE=$prefix/secrets/first-admins.json"; fi
	if [[ -e $secrets/static.keys ]]; then say "UNIBUS_STATIC_KEYS_FILE=$prefix/secrets/static.keys"; fi
}

check_secrets() {
	local node f
	for f in cluster.pass route-trust.crt client-trust.crt; do
		[[ -s $secrets/$f ]] || die "$secrets/$f is missing: generate-cluster-certs.sh makes it"
	done
	for node in "${CHOSEN[@]}"; do
		for f in route.crt route.key client.crt client.key; do
			[[ -s $secrets/$node/$f ]] || die "$secrets/$node/$f is missing: generate-cluster-certs.sh makes it"
		done
	done
}

# stage NODE PART...: copies into an empty folder what is to be sent; prints the folder.
stage() {
	local node=$1 dir=$work/stage-$1 part
	shift
	rm -rf "$dir"
	mkdir -p "$dir"
	for part in "$@"; do
		case $part in
		binary) cp "$binary" "$dir/membershipd" ;;
		certs)
			mkdir "$dir/certs"
			cp "$secrets/$node"/{route,client}.{crt,key} "$secrets"/{route,client}-trust.crt "$dir/certs/"
			;;
		config)
			cluster_env "$node" >"$dir/cluster.env"
			cp "$here/$unit" "$here/README.md" "$secrets/cluster.pass" "$dir/"
			local f
			for f in first-admins.json static.keys; do
				if [[ -e $secrets/$f ]]; then cp "$secrets/$f" "$dir/"; fi
			done
			;;
		esac
	done
	printf '%s' "$dir"
}

readonly unpack="umask 077; install -d -m 0755 $prefix && rm -rf $prefix/incoming && mkdir $prefix/incoming && tar --no-same-owner -xf - -C $prefix/incoming"

# push NODE PART...: copies files to the host's /opt/unibus/incoming, which root alone can read.
push() {
	local node=$1 dir command=$unpack
	dir=$(stage "$@")
	if [[ ${NODE_SSH[$node]} != root@* ]]; then command="sudo -n sh -c '$unpack'"; fi
	if [[ -n $YES ]]; then
		say "[$node] copy $(find "$dir" -type f | wc -l) files"
		tar -C "$dir" -cf - . | ssh_to "$node" "$command"
		return
	fi
	say "[$node] would copy to $prefix/incoming on ${NODE_SSH[$node]}, readable for root alone, with: $command"
	(cd "$dir" && find . -type f | LC_ALL=C sort | while read -r f; do printf '    %9d bytes  %s\n' "$(stat -c %s "$f")" "${f#./}"; done)
	if [[ -e $dir/cluster.env ]]; then sed 's/^/    cluster.env | /' "$dir/cluster.env"; fi
}

# What is done on a node: shell code on standard output.

log_line() {
	local who
	who="$(id -un)@$(hostname)"
	printf 'line=%q\n' "$1 by $who: $2"
	cat <<EOF
printf '%s %s\n' "\$(date -u +%Y-%m-%dT%H:%M:%SZ)" "\$line" >>$prefix/deploy.log
logger -t unibus-deploy -- "\$line" || true
EOF
}

place_user() {
	cat <<'EOF'
getent passwd unibus >/dev/null || useradd --system --user-group --home-dir /var/lib/unibus --no-create-home --shell /usr/sbin/nologin unibus
EOF
}

place_binary() {
	cat <<EOF
test "\$(sha256sum <$prefix/incoming/membershipd | cut -d' ' -f1)" = $digest
install -d -m 0755 $prefix/releases/$digest
install -m 0755 $prefix/incoming/membershipd $prefix/releases/$digest/membershipd
$prefix/releases/$digest/membershipd version
ln -sfn releases/$digest $prefix/current.new
mv -T $prefix/current.new $prefix/current
EOF
}

place_config() {
	cat <<EOF
install -m 0644 $prefix/incoming/cluster.env $prefix/incoming/README.md $prefix/
install -d -o unibus -g unibus -m 0700 $prefix/secrets
for f in cluster.pass first-admins.json static.keys; do
	if test -e $prefix/incoming/\$f; then install -o unibus -g unibus -m 0400 $prefix/incoming/\$f $prefix/secrets/\$f; else rm -f $prefix/secrets/\$f; fi
done
install -m 0644 $prefix/incoming/$unit /etc/systemd/system/$unit
systemctl daemon-reload
systemctl enable --quiet $unit
EOF
}

# place_certs: a new folder, then one rename, so that a key is never seen with another one's certificate.
place_certs() {
	cat <<EOF
install -d -o unibus -g unibus -m 0700 $prefix/secrets
new=certs-\$(date -u +%Y%m%dT%H%M%S.%N)
install -d -o unibus -g unibus -m 0700 $prefix/secrets/\$new
install -o unibus -g unibus -m 0400 $prefix/incoming/certs/* $prefix/secrets/\$new/
ln -sfn \$new $prefix/secrets/certs.new
mv -T $prefix/secrets/certs.new $prefix/secrets/certs
find $prefix/secrets -maxdepth 1 -type d -name 'certs-*' ! -name "\$new" -exec rm -rf {} +
EOF
}

clean_up() { printf 'rm -rf %s/incoming\n' "$prefix"; }

not_running() {
	cat <<EOF
if systemctl is-active --quiet $unit; then echo "the daemon runs: use upgrade or config" >&2; exit 1; fi
EOF
}

# await_ready NODE: waits on the node until it says that it is ready.
await_ready() {
	remote_http
	cat <<EOF
limit=\$((SECONDS + $wait_seconds))
until why=\$(http_get $(http_host "$1") ${SETTING[HTTP_PORT]} /healthz); do
	if ((SECONDS >= limit)); then echo "$1 is not ready after $wait_seconds s: \${why:-no answer}" >&2; exit 1; fi
	sleep 0.5
done
echo "$1 is ready"
EOF
}

# all_ready: every node of the cluster, not only those that were named.
all_ready() {
	local node
	for node in "${NODE_NAMES[@]}"; do
		await_ready "$node" | change "$node" "wait until it is ready"
	done
}

# together WHAT MAKER: runs what MAKER prints for a node on all chosen nodes at once, and fails if one of them does.
together() {
	local what=$1 maker=$2 node failed=0
	declare -a pids=()
	if [[ -z $YES ]]; then
		for node in "${CHOSEN[@]}"; do "$maker" "$node" | change "$node" "$what, all nodes at once"; done
		return
	fi
	for node in "${CHOSEN[@]}"; do
		"$maker" "$node" | change "$node" "$what" &
		pids+=($!)
	done
	for node in "${pids[@]}"; do wait "$node" || failed=$((failed + 1)); done
	((failed == 0)) || die "$failed of ${#CHOSEN[@]} nodes failed to $what"
}

do_install() {
	find_binary
	check_proof
	check_secrets
	local node
	for node in "${CHOSEN[@]}"; do not_running | change "$node" "make sure that no daemon runs"; done
	for node in "${CHOSEN[@]}"; do
		push "$node" binary config certs
		{
			place_user
			place_binary
			place_certs
			place_config
			log_line install "sha256:$digest, $provenance"
			clean_up
		} | change "$node" "install"
	done
}

start_node() { printf 'systemctl start %s\n' "$unit"; }
stop_node() { printf 'systemctl stop %s\n' "$unit"; }

do_start() {
	together start start_node
	together "wait until it is ready" await_ready
}

do_upgrade() {
	find_binary
	check_proof
	check_secrets
	all_ready
	local node
	for node in "${CHOSEN[@]}"; do
		push "$node" binary config certs
		{
			place_binary
			place_certs
			place_config
			log_line upgrade "sha256:$digest, $provenance"
			clean_up
			printf 'systemctl restart %s\n' "$unit"
		} | change "$node" "upgrade and restart"
		all_ready
	done
}

do_config() {
	check_secrets
	local node
	for node in "${CHOSEN[@]}"; do
		push "$node" config certs
		{
			place_certs
			place_config
			log_line config "settings and secrets"
			clean_up
			printf 'systemctl restart %s\n' "$unit"
		} | change "$node" "configure and restart"
		all_ready
	done
}

# await_serials NODE: the daemon says which certificates it uses. One that it could not use would leave the earlier ones in force.
await_serials() {
	local route client
	route=$(serial "$secrets/$1/route.crt")
	client=$(serial "$secrets/$1/client.crt")
	cat <<EOF
until status=\$(http_get $(http_host "$1") ${SETTING[HTTP_PORT]} /statusz) && [[ \$status == *"$route"* && \$status == *"$client"* ]]; do
	if ((SECONDS >= limit)); then echo "$1 does not use the new certificates: its log says why" >&2; exit 1; fi
	sleep 0.5
done
echo "$1 uses the new certificates"
EOF
}

serial() {
	local s
	s=$(openssl x509 -in "$1" -noout -serial)
	s=${s#serial=}
	printf '%s' "${s,,}"
}

# reload_node NODE: the process that read the certificates again must be the one that ran before.
reload_node() {
	cat <<EOF
before=\$(systemctl show -p MainPID --value $unit)
systemctl reload $unit
EOF
	await_ready "$1"
	await_serials "$1"
	cat <<EOF
if test "\$before" != "\$(systemctl show -p MainPID --value $unit)"; then echo "the daemon did not survive the reload" >&2; exit 1; fi
EOF
}

do_certs() {
	need openssl
	check_secrets
	local node
	for node in "${CHOSEN[@]}"; do
		push "$node" certs
		{
			place_certs
			log_line certs "route and client certificates"
			clean_up
			reload_node "$node"
		} | change "$node" "put certificates in place and reload"
		all_ready
	done
}

do_status() {
	local node bad=0
	for node in "${CHOSEN[@]}"; do
		say "== $node (${NODE_ADDRESS[$node]})"
		{
			remote_http
			cat <<EOF
systemctl is-active $unit || true
$prefix/current/membershipd version || true
ready=\$(http_get $(http_host "$node") ${SETTING[HTTP_PORT]} /healthz) && echo "ready: yes" || { echo "ready: NO: \${ready:-no answer}"; no=1; }
http_get $(http_host "$node") ${SETTING[HTTP_PORT]} /statusz || true
tail -n 1 $prefix/deploy.log || true
test -z "\${no:-}"
EOF
		} | remote "$node" || bad=$((bad + 1))
	done
	((bad == 0)) || die "$bad of ${#CHOSEN[@]} nodes are not ready"
}

case $action in
install) do_install ;;
start) do_start ;;
stop) together stop stop_node ;;
upgrade) do_upgrade ;;
config) do_config ;;
certs) do_certs ;;
status) do_status ;;
esac
if [[ -z $YES && $action != status ]]; then say "Dry run: nothing was changed. Say --yes to do it."; fi
