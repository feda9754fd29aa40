# Sourced by install: finds the containerd of this node, and says what to do where a distribution generates its configuration.
# shellcheck shell=bash disable=SC2154 # $examples and $line are install's
#
# A process is believed only what the kernel says of it and what nobody but root can arrange (docs/security.md): all four user
# ids are 0; root, mount namespace and user namespace are our own; its program, by /proc/PID/exe, is a file that only root can
# replace. Its arguments are read only after that.

# untrusted PROGRAM: prints the first of its file and the directories above it that others than root can change; fails if there is
# none. The rule is that of cmd/internal/trust: a sticky directory (/tmp) counts only right above the file, and the group root counts
# as others, because containers run with it. Access control lists show up in the group's rights.
untrusted() {
	local path sticky=()
	path=$(realpath -e -- "$1") || return 1
	[ -n "$(find "$path" -maxdepth 0 -type f -uid 0 ! -perm /6022)" ] || { echo "$path" && return; }
	while [ "$path" != / ]; do
		path=$(dirname -- "$path")
		[ -n "$(find "$path" -maxdepth 0 -type d -uid 0 \( ! -perm /022 "${sticky[@]}" \))" ] || { echo "$path" && return; }
		sticky=(-o -perm -1000)
	done
	return 1
}

# running_containerds: prints a line for each containerd of this node: its pid, program and configuration, with tabs between.
running_containerds() {
	local dir
	find /proc -maxdepth 2 -path '/proc/[0-9]*/exe' \( -lname '*/containerd' -o -lname '*/containerd (deleted)' \
		-o -lname '*/containerd-[0-9]*' -o -lname '*/k3s' -o -lname '*/rke2' \) -printf '%h\n' 2>/dev/null |
		while read -r dir; do
			# Inside the directory: its files stay those of this process, also when the pid is used again.
			(cd "$dir" && containerd_here "${dir#/proc/}") 2>/dev/null || true
		done
}

containerd_here() { # PID, in its directory of /proc
	local exe args config
	[ "$(awk '$1 == "Uid:" {print $2, $3, $4, $5}' status)" = "0 0 0 0" ] || return 0
	[ root -ef / ] || return 0
	[ "$(readlink ns/mnt)$(readlink ns/user)" = "$(readlink /proc/self/ns/mnt)$(readlink /proc/self/ns/user)" ] || return 0
	exe=$(readlink exe)
	exe=${exe% (deleted)} # replaced by an upgrade: the next start is of what is there now
	for _ in 1 2 3 4 5 6 7 8 9 10; do
		mapfile -d '' -t args <cmdline
		[ ${#args[@]} = 0 ] || break
		sleep 0.1 # in the middle of its exec it has none yet
	done
	[ ${#args[@]} -gt 0 ] || return 0
	case ${exe##*/} in
	containerd | containerd-[0-9]*) ;;
	k3s | rke2) [ "${args[0]##*/}" = containerd ] || return 0 ;; # one program under many names
	*) return 0 ;;
	esac
	config=$(config_argument "${args[@]:1}") || return 0
	case $config in /*) ;; *) config=$(readlink cwd)/$config ;; esac
	printf '%s\t%s\t%s\n' "$1" "$exe" "$config"
}

# config_argument ARGUMENTS: prints the configuration that a daemon with these arguments reads. Fails for what is none, such as "containerd config dump".
config_argument() {
	local config=/etc/containerd/config.toml
	while [ $# -gt 0 ]; do
		case $1 in
		-c | -config | --config)
			config=${2-}
			shift
			;;
		-c=* | -config=* | --config=*) config=${1#*=} ;;
		-a | -address | --address | -l | -log-level | --log-level | -root | --root | -state | --state) shift ;;
		-*) ;;
		*) return 1 ;;
		esac
		shift || true # the value may be missing
	done
	echo "$config"
}

dockers_own() { [[ $1 == */docker/containerd/containerd.toml ]]; } # CONFIG: of the containerd that dockerd starts

# choose_containerd: sets pid, containerd and config, by what runs and what --pid, --containerd and --config name. pid is empty if
# none of those that run is meant.
choose_containerd() {
	local all found=() line_ p exe file others=0
	mapfile -t all < <(running_containerds)
	for line_ in "${all[@]}"; do
		IFS=$'\t' read -r p exe file <<<"$line_"
		[ -z "$pid" ] || [ "$p" = "$pid" ] || continue
		[ -z "$containerd" ] || [ "$exe" -ef "$containerd" ] || continue
		[ -z "$config" ] || [ "$(realpath -m -- "$file")" = "$config" ] || continue
		if [ -z "$pid$containerd$config" ] && dockers_own "$file"; then
			others=1
			continue
		fi
		found+=("$line_")
	done
	if [ ${#found[@]} -gt 1 ]; then
		if [ -n "$config" ] || [ "$(printf '%s\n' "${found[@]}" | cut -f 3 | sort -u | wc -l)" = 1 ]; then
			found=("${found[0]}") # they read the same file
		else
			fail "several containerds run: name one with --pid.$(listed "${found[@]}")"
		fi
	fi
	if [ ${#found[@]} = 1 ]; then
		IFS=$'\t' read -r pid containerd config <<<"${found[0]}"
		return
	fi
	[ -z "$pid" ] || fail "process $pid is no containerd of this node that root has started.$(listed "${all[@]}")"
	[ -z "$containerd" ] || [ -n "$config" ] || [ ${#all[@]} = 0 ] ||
		fail "no process runs $containerd. If it does not run yet, name its configuration with --config.$(listed "${all[@]}")"
	[ -z "$config" ] || [ -n "$containerd" ] || [ ${#all[@]} = 0 ] ||
		fail "no running containerd reads $config. If it is for one that does not run, name its program with --containerd.$(listed "${all[@]}")"
	[ "$others" = 0 ] ||
		fail "the only containerd that runs is dockerd's own, which needs no configuration: put the programs on its PATH (make install, or the package), see docs/ctr-nerdctl-docker.md"
	config=${config:-/etc/containerd/config.toml}
}

listed() { # LINES of running_containerds: for an error
	[ $# -gt 0 ] || return 0
	printf ' Running:'
	printf '%s\n' "$@" | awk -F '\t' 'NR <= 8 {printf "\n  --pid %s: %s reads %s", $1, $2, $3}'
}

# unit_of /proc/PID/cgroup: prints the systemd unit that the process belongs to.
unit_of() {
	local unit
	unit=$(sed -n 's#^\(0:\|[0-9]*:name=systemd\):.*/\([^/]*\.service\)$#\2#p' "$1" 2>/dev/null | head -n 1)
	echo "${unit:-containerd}"
}

# imported_dir CONFIG: prints the directory of drop-ins that the configuration of k3s or rke2 imports; nothing before its releases of 2026-02.
imported_dir() {
	sed -n "s|^ *imports *=.*[\"']\(/[^\"']*/config\(-v3\)\{0,1\}\.toml\.d\)/\*\.toml[\"'].*|\1|p" "$1" 2>/dev/null | head -n 1
}

# rancher CONFIG: prints k3s or rke2 if that makes the file.
rancher() {
	local by
	by=$(sed -n 's/^# File generated by \(k3s\|rke2\)\..*/\1/p' "$1" 2>/dev/null | head -n 1)
	case $by:$1 in
	k3s:* | rke2:*) echo "$by" ;;
	:*/rke2/agent/etc/containerd/config.toml) echo rke2 ;;
	:*/agent/etc/containerd/config.toml) echo k3s ;;
	esac
}

# refuse_generated: fails if the configuration is one that a distribution makes anew at each start, and names the file that it keeps.
refuse_generated() {
	local example=$examples/containerd/$line/lifecycle.toml dir template by programs="install the programs (make install, or the package)"
	dir=$(dirname "$config")
	by=$(rancher "$config")
	if [ -n "$by" ]; then
		template=$dir/config-v3.toml.tmpl
		[ "$line" = 2.x ] || template=$dir/config.toml.tmpl
		if [ "$line" = 1.x ] || [ -z "$(imported_dir "$config")" ]; then
			fail "$config is generated whenever $by starts: $programs, append $example without its version line to the template $template (a new one begins with the line {{ template \"base\" . }}), and restart $by. Nothing is changed."
		fi
	fi
	if grep -qs '^# k0s_managed=true' "$config"; then
		fail "$config is generated whenever k0s starts: $programs, and copy $example to $dir/containerd.d/lifecycle.toml, and restart k0s. Nothing is changed."
	fi
	if [[ $config == */microk8s/*/args/containerd.toml ]]; then
		fail "$config is generated whenever microk8s starts: $programs, and append $example without its version line to the template $dir/containerd-template.toml, and run snap restart microk8s.daemon-containerd. Nothing is changed."
	fi
	if dockers_own "$config"; then
		fail "$config is generated whenever dockerd starts, and docker needs no configuration: $programs, see docs/ctr-nerdctl-docker.md. Nothing is changed."
	fi
}
