#!/usr/bin/env bash
# Backs up a cluster's data and brings it back. A dry run unless --yes is given.
set -euo pipefail
umask 077
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=lib.bash
source "$here/lib.bash"

usage() {
	cat <<'EOF'
Usage: backup-cluster.sh backup  --nodes FILE --out DIR [--node NAME] [OPTION...]
       backup-cluster.sh restore --nodes FILE --from DIR [OPTION...]

backup stops every node, archives each one's store, and starts all of them together: one moment of the whole cluster. With --node NAME only that
node is stopped and archived, and the cluster serves on; such a backup holds everything only if every stream has a replica on that node, as streams
with R3 on three nodes do. DIR must be new; it holds NODE.tar.gz and SHA256SUMS.

restore stops every node, moves its store aside to /var/lib/unibus/data.before-<time>, puts back the one of the backup, and starts all nodes
together. A backup of one node is put on every node: they start as identical replicas. Never restore one node into a running cluster: it would
have forgotten votes that it gave, and acknowledged writes with them. A node that lost its store is rebuilt by its peers.

Archives hold users' data: they are made readable for their owner alone. Keep the secrets folder and nodes.env too; they are not in them.

Options:
  --ssh-config FILE  for ssh -F
  --wait SECONDS     how long to wait for readiness (default 180)
  --yes              do it
  --help
EOF
}

readonly unit=membershipd-cluster.service state=/var/lib/unibus
action='' nodes_file='' dir='' one='' wait_seconds=180
while (($#)); do
	case $1 in
	--nodes | --out | --from | --node | --ssh-config | --wait)
		(($# > 1)) || usage_error "$1 needs a value"
		case $1 in
		--nodes) nodes_file=$2 ;;
		--out | --from)
			[[ -z $dir ]] || usage_error "name one folder"
			dir=$2 given=$1
			;;
		--node) one=$2 ;;
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
	*)
		[[ -z $action ]] || usage_error "more than one action"
		action=$1
		;;
	esac
	shift
done
[[ -n $nodes_file ]] || usage_error "--nodes is required"
[[ $wait_seconds =~ ^[1-9][0-9]{0,4}$ ]] || usage_error "--wait is a number of seconds"
case $action in
backup) [[ ${given:-} == --out ]] || usage_error "backup needs --out" ;;
restore) [[ ${given:-} == --from && -z $one ]] || usage_error "restore needs --from, and takes no --node" ;;
*) usage_error "the action is backup or restore" ;;
esac
need ssh tar gzip sha256sum sed grep
read_nodes "$nodes_file"
if [[ -n $one ]]; then chosen_nodes "$one"; else chosen_nodes; fi

stop_all() {
	local node
	for node in "${CHOSEN[@]}"; do change "$node" "stop the daemon" <<<"systemctl stop $unit"; done
}

start_all() {
	local node failed=0
	declare -a pids=()
	for node in "${CHOSEN[@]}"; do
		change "$node" "start the daemon" <<<"systemctl start $unit" &
		pids+=($!)
		if [[ -z $YES ]]; then wait "${pids[-1]}"; fi
	done
	if [[ -n $YES ]]; then
		for node in "${pids[@]}"; do wait "$node" || failed=1; done
		((failed == 0)) || die "not every daemon could be started"
	fi
	for node in "${NODE_NAMES[@]}"; do
		{
			remote_http
			cat <<EOF
limit=\$((SECONDS + $wait_seconds))
until why=\$(http_get $(http_host "$node") ${SETTING[HTTP_PORT]} /healthz); do
	if ((SECONDS >= limit)); then echo "$node is not ready after $wait_seconds s: \${why:-no answer}" >&2; exit 1; fi
	sleep 0.5
done
echo "$node is ready"
EOF
		} | change "$node" "wait until it is ready"
	done
}

# The store alone: what names the node (node.json, the internal identity) stays on its host.
readonly pack="tar --exclude=./node.json --exclude=./lock --numeric-owner -czf - -C $state/data ."

backup() {
	[[ ! -e $dir ]] || die "$dir is there already"
	if [[ -n $YES ]]; then mkdir -p "$dir"; fi
	local node failed=''
	stop_all
	for node in "${CHOSEN[@]}"; do
		if [[ -z $YES ]]; then
			say "[$node] would write $dir/$node.tar.gz from: $pack"
			continue
		fi
		say "[$node] archive"
		if ! remote "$node" <<<"$pack" >"$dir/$node.tar.gz.part" || ! gzip -t "$dir/$node.tar.gz.part"; then
			failed=$node
			break
		fi
		mv "$dir/$node.tar.gz.part" "$dir/$node.tar.gz"
	done
	start_all # whatever happened to the archives
	[[ -z $failed ]] || die "the archive of $failed could not be made"
	if [[ -n $YES ]]; then
		(cd "$dir" && sha256sum -- *.tar.gz | tee SHA256SUMS)
	fi
}

# archive_for NODE: its own, or the only one.
archive_for() {
	local -a all=("$dir"/*.tar.gz)
	if [[ -e $dir/$1.tar.gz && ${#all[@]} -eq ${#NODE_NAMES[@]} ]]; then
		printf '%s' "$dir/$1.tar.gz"
	elif ((${#all[@]} == 1)) && [[ -e ${all[0]} ]]; then
		printf '%s' "${all[0]}"
	else
		die "$dir holds neither one archive nor one of each node"
	fi
}

put_back() {
	cat <<EOF
rm -rf $state/data.restored
install -d -o unibus -g unibus -m 0700 $state/data.restored
tar -xzf $state/restore.tar.gz --no-same-owner -C $state/data.restored
for f in node.json; do if test -e $state/data/\$f; then cp -p $state/data/\$f $state/data.restored/; fi; done
chown -R unibus:unibus $state/data.restored
chmod 0700 $state/data.restored
if test -e $state/data; then mv -T $state/data $state/data.before-\$(date -u +%Y%m%dT%H%M%SZ); fi
mv -T $state/data.restored $state/data
rm $state/restore.tar.gz
EOF
}

readonly receive="umask 077; install -d -o unibus -g unibus -m 0700 $state && cat >$state/restore.tar.gz"

restore() {
	[[ -r $dir/SHA256SUMS ]] || die "$dir holds no backup"
	(cd "$dir" && sha256sum --quiet -c SHA256SUMS) || die "the backup in $dir is damaged"
	local node command archive
	for node in "${NODE_NAMES[@]}"; do archive=$(archive_for "$node"); done
	stop_all
	for node in "${NODE_NAMES[@]}"; do
		archive=$(archive_for "$node")
		command=$receive
		if [[ ${NODE_SSH[$node]} != root@* ]]; then command="sudo -n sh -c '$receive'"; fi
		if [[ -n $YES ]]; then
			say "[$node] copy $archive"
			ssh_to "$node" "$command" <"$archive"
		else
			say "[$node] would copy $archive to $state/restore.tar.gz on ${NODE_SSH[$node]} with: $command"
		fi
		put_back | change "$node" "put the store back"
	done
	start_all
}

"$action"
if [[ -z $YES ]]; then say "Dry run: nothing was changed. Say --yes to do it."; fi
