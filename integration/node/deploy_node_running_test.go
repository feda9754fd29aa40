package node

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lifecycle-shim/lifecycle-shim/integration/bed"
)

// nodeOf is a separate node for deploy/node/install: a network namespace, and a pid namespace with its own /proc, in which nothing runs but what the
// test's script starts. The mounts are its own too, the files are the machine's.
type nodeOf struct {
	*testing.T
	dir, prefix string
}

func newNode(t *testing.T) nodeOf {
	t.Helper()
	t.Parallel()
	dir, err := os.MkdirTemp("", "lcs-node-") // t.TempDir's is too long for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return nodeOf{t, dir, t.TempDir()}
}

// prelude defines what the scripts use. tail(1) does as a daemon that is none: it takes -c VALUE, and reads until the end.
const prelude = `
ip link set lo up # CRI listens there
mount -t tmpfs none /etc/containerd # the usual place, not the machine's
install() { bash "$INSTALL" --prefix "$PREFIX" "$@"; }
running() { # PID PROGRAM: waits until its exec is over
	for i in $(seq 600); do
		if [ "$(readlink "/proc/$1/exe")" = "$2" ] && [ -n "$(tr -d '\0' <"/proc/$1/cmdline")" ]; then return; fi
		sleep 0.05
	done
	echo "$2 does not run: $(tail "$DIR/log")"; exit 9
}
start() { # PROGRAM CONFIG [ARGV0]: a containerd
	(exec -a "${3:-containerd}" "$1" --config "$2") >"$DIR/log" 2>&1 & started=$!
	running $! "$1"
}
mkfifo "$DIR/nothing"
decoy() { # PROGRAM COMMAND...: runs a copy of tail as PROGRAM, by way of COMMAND
	local program=$1; shift
	mkdir -p "$(dirname "$program")"; cp /usr/bin/tail "$program"
	"$@" "$program" -c 5 <>"$DIR/nothing" >"$DIR/log" 2>&1 & started=$!
	running $! "$program"
}
chmod 755 "$DIR"
config() { # FILE HEADER: of a containerd that touches nothing of the machine's
	mkdir -p "$(dirname "$1")"
	cat >"$1" <<-END
		$2
		root = '$1.root'
		state = '$1.state'
		disabled_plugins = ['io.containerd.internal.v1.opt', 'io.containerd.nri.v1.nri']
		[grpc]
		address = '$1.sock'
	END
}
`

// run runs a script on the node, and returns what it has printed.
func (n nodeOf) run(server, script string) (string, error) {
	n.Helper()
	bash := "set -euo pipefail\n" + prelude + script
	cmd := exec.CommandContext(n.Context(), "unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c", bash)
	cmd.Env = append(os.Environ(), "DIR="+n.dir, "PREFIX="+n.prefix, "INSTALL="+deployFile(n.T, "node/install"),
		"CONTAINERD="+n.server(server), "CTL="+filepath.Join(bed.BinDir(n.T), "lifecyclectl"),
		"CTR="+filepath.Join(bed.BinDir(n.T), "ctr"), "SERVERS="+bed.BinDir(n.T))
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// server is the program of a containerd, which may be a link.
func (n nodeOf) server(name string) string {
	n.Helper()
	path, err := filepath.EvalSymlinks(server(n.T, name).Binary)
	if err != nil {
		n.Fatal(err)
	}
	return path
}

func (n nodeOf) read(name string) string {
	n.Helper()
	text, err := os.ReadFile(filepath.Join(n.dir, name))
	if err != nil {
		n.Fatal(err)
	}
	return string(text)
}

// wantNothingInstalled: no program, no handler, and no file of ours.
func (n nodeOf) wantNothingInstalled() {
	n.Helper()
	for _, dir := range []string{n.dir, n.prefix} {
		out, err := exec.CommandContext(n.Context(), "grep", "-rlI", "--exclude-dir=*.root", "runtimes.lifecycle", dir).Output()
		if err == nil {
			n.Errorf("files with our handler: %s", out)
		}
		if out, err = exec.CommandContext(n.Context(), "find", dir, "-name", "*lifecycle*").Output(); err != nil || len(out) > 0 {
			n.Errorf("files of ours: %s (%v)", out, err)
		}
	}
}

const etcConfig = "/etc/containerd/config.toml"

// FAULTS C2: without options, the installer finds the configuration that the running containerd reads, verifies it by that
// containerd's program, and leaves the usual place alone.
func TestC2NodeInstallFindsTheConfiguration(t *testing.T) {
	for name, c := range map[string]struct{ server, start string }{
		"2.4, --config FILE":   {"2.4", `start "$CONTAINERD" "$DIR/elsewhere/config.toml"`},
		"2.4, -c=FILE":         {"2.4", `"$CONTAINERD" -c="$DIR/elsewhere/config.toml" --log-level debug >"$DIR/log" 2>&1 & running $! "$CONTAINERD"`},
		"2.4, relative":        {"2.4", `cd "$DIR/elsewhere"; "$CONTAINERD" -l info -c config.toml >"$DIR/log" 2>&1 & running $! "$CONTAINERD"; cd /`},
		"1.7, --config=FILE":   {"1.7", `"$CONTAINERD" --config="$DIR/elsewhere/config.toml" >"$DIR/log" 2>&1 & running $! "$CONTAINERD"`},
		"1.6, --config FILE":   {"1.6", `start "$CONTAINERD" "$DIR/elsewhere/config.toml"`},
		"2.4, a link":          {"2.4", `ln -s elsewhere "$DIR/link"; start "$CONTAINERD" "$DIR/link/config.toml"`},
		"2.4, with dockerd's":  {"2.4", `config "$DIR/docker/containerd/containerd.toml" "version = 2"; start "$CONTAINERD" "$DIR/docker/containerd/containerd.toml"; start "$CONTAINERD" "$DIR/elsewhere/config.toml"`},
		"2.4, one of several":  {"2.4", `config "$DIR/other.toml" "version = 2"; start "$CONTAINERD" "$DIR/other.toml"; start "$CONTAINERD" "$DIR/elsewhere/config.toml"; set -- --pid $started`},
		"2.4, named by a file": {"2.4", `config "$DIR/other.toml" "version = 2"; start "$CONTAINERD" "$DIR/other.toml"; start "$CONTAINERD" "$DIR/elsewhere/config.toml"; set -- --config "$DIR/elsewhere/config.toml"`},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			before, _ := os.ReadFile(etcConfig)
			out, err := n.run(c.server, `
config "$DIR/elsewhere/config.toml" "version = 2"
cp "$DIR/elsewhere/config.toml" "$DIR/before"
`+c.start+`
install "$@"
cp "$DIR/elsewhere/config.toml" "$DIR/after"
"$CONTAINERD" --config "$DIR/elsewhere/config.toml" config dump | sed 's/^ *//' >"$DIR/dump"
sed -i 's/runtimes.lifecycle/runtimes.ours/' "$DIR/dump" "$DIR/after" # for a look at the leftovers
install --undo "$@"
diff "$DIR/before" "$DIR/elsewhere/config.toml"
`)
			if err != nil || !strings.Contains(out, "in its configuration, "+n.dir+"/elsewhere/config.toml") || strings.Contains(out, "note: no running") {
				t.Fatalf("%v\n%s", err, out)
			}
			if dump := n.read("dump"); !strings.Contains(dump, "containerd.runtimes.ours]") {
				t.Errorf("containerd has no handler: %s", dump)
			}
			if n.read("after") == n.read("before") {
				t.Error("the configuration that is read has not changed")
			}
			if after, _ := os.ReadFile(etcConfig); string(after) != string(before) {
				t.Errorf("%s has changed, which this containerd does not read", etcConfig)
			}
			n.wantNothingInstalled()
		})
	}
}

// A containerd that needs no configuration, or whose distribution's files are not as they have to be, is not changed.
func TestC2NodeInstallRefusesGenerated(t *testing.T) {
	for name, c := range map[string]struct {
		server, config, header string
		words                  []string
	}{
		"k3s without a base template": {
			"1.6", "k3s/agent/etc/containerd/config.toml", "# File generated by k3s. DO NOT EDIT.\nversion = 2",
			[]string{"k3s starts", "has no base template", "/k3s/agent/etc/containerd/config.toml.tmpl"},
		},
		"microk8s without its template": {
			"1.7", "microk8s/8300/args/containerd.toml", "version = 2",
			[]string{"microk8s starts", "/microk8s/8300/args/containerd-template.toml"},
		},
		"dockerd": {"2.4", "docker/containerd/containerd.toml", "version = 2", []string{"dockerd's own", "docs/use/ctr-nerdctl-docker.md"}},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			file := filepath.Join(n.dir, c.config)
			out, err := n.run(c.server, "config '"+file+"' '"+strings.ReplaceAll(c.header, "'", `"`)+"'\ncp '"+file+"' \"$DIR/before\"\nstart \"$CONTAINERD\" '"+file+"'\ninstall")
			if err == nil {
				t.Fatalf("it succeeds:\n%s", out)
			}
			for _, words := range c.words {
				if !strings.Contains(out, words) {
					t.Errorf("it does not say %q: %s", words, out)
				}
			}
			if n.read(c.config) != n.read("before") {
				t.Errorf("the configuration has changed: %s", n.read(c.config))
			}
			n.wantNothingInstalled()
		})
	}
}

// k3s and rke2 since 2026-02 import a directory of drop-ins into what they generate: the handler goes there. Their containerd is one program
// with k3s, under another name.
func TestC2NodeInstallIntoK3sDropIns(t *testing.T) {
	n := newNode(t)
	out, err := n.run("2.4", `
dir=$DIR/k3s/agent/etc/containerd
config "$dir/config.toml" "# File generated by k3s. DO NOT EDIT. Use config-v3.toml.tmpl instead.
version = 3
imports = [\"$dir/config-v3.toml.d/*.toml\"]"
cp "$dir/config.toml" "$DIR/before"
cp "$CONTAINERD" "$DIR/k3s/k3s"
start "$DIR/k3s/k3s" "$dir/config.toml"
install
cmp "$DIR/before" "$dir/config.toml"
"$CONTAINERD" --config "$dir/config.toml" config dump >"$DIR/dump"
grep -F 'containerd.runtimes.lifecycle]' "$DIR/dump"
grep -F "runtime_path = '$PREFIX/bin/containerd-shim-lifecycle-v2'" "$DIR/dump" # the directory is not on its PATH
install --undo
[ ! -e "$dir/config-v3.toml.d" ]
rm "$DIR/dump"
`)
	if err != nil || !strings.Contains(out, "has the runtime handler") {
		t.Fatalf("%v\n%s", err, out)
	}
	n.wantNothingInstalled()
}

// What only looks like this node's containerd is not believed, and none of it is run: with any of these beside it the real one is
// found, as the only one.
func TestC2NodeInstallIsNotDeceived(t *testing.T) {
	for name, decoy := range map[string]string{
		"another user's":            `decoy "$DIR/x/containerd" setpriv --reuid 65534 --regid 65534 --clear-groups`,
		"set-user-id":               `decoy "$DIR/x/containerd" setpriv --ruid 65534`,
		"saved user id":             `decoy "$DIR/x/containerd" setpriv --euid 65534`,
		"another mount namespace":   `decoy "$DIR/x/containerd" unshare --mount`,
		"another user namespace":    `decoy "$DIR/x/containerd" unshare --user --map-root-user`,
		"by its name only":          `mkdir "$DIR/x"; cp /usr/bin/tail "$DIR/x/tail"; (exec -a containerd "$DIR/x/tail" -c 5) <>"$DIR/nothing" & running $! "$DIR/x/tail"`,
		"k3s that is no containerd": `decoy "$DIR/x/k3s" env`,
		"a command of containerd":   `mkdir "$DIR/x"; cp /usr/bin/tail "$DIR/x/containerd"; "$DIR/x/containerd" -c 5 /dev/stdin <>"$DIR/nothing" & running $! "$DIR/x/containerd"`,
		"another root": `mkdir "$DIR/x"; cp /bin/busybox "$DIR/x/containerd"; cp /bin/busybox "$DIR/x"
			chroot "$DIR/x" /busybox sh -c 'exec -a sh /containerd -c "read line; :"' <>"$DIR/nothing" & running $! "$DIR/x/containerd"`,
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			out, err := n.run("2.4", `
config "$DIR/config.toml" "version = 2"
`+decoy+`
start "$CONTAINERD" "$DIR/config.toml"
install
"$CONTAINERD" --config "$DIR/config.toml" config dump | grep -F 'containerd.runtimes.lifecycle]'
install --undo
`)
			if err != nil || !strings.Contains(out, "in its configuration, "+n.dir+"/config.toml") {
				t.Fatalf("%v\n%s", err, out)
			}
		})
	}
}

// Refusals that depend on what runs.
func TestC2NodeInstallRefusesWhatRuns(t *testing.T) {
	for name, c := range map[string]struct {
		script string
		words  []string
	}{
		"several": {
			`config "$DIR/a.toml" "version = 2"; config "$DIR/b.toml" "version = 2"; start "$CONTAINERD" "$DIR/a.toml"; start "$CONTAINERD" "$DIR/b.toml"; install`,
			[]string{"several containerds run", "--pid", "/a.toml", "/b.toml"},
		},
		"a file that none reads": {
			`config "$DIR/a.toml" "version = 2"; config "$DIR/b.toml" "version = 2"; start "$CONTAINERD" "$DIR/a.toml"; install --config "$DIR/b.toml"`,
			[]string{"no running containerd reads", "/b.toml", "--containerd", "/a.toml"},
		},
		"a program that does not run": {
			`config "$DIR/a.toml" "version = 2"; start "$CONTAINERD" "$DIR/a.toml"; cp "$CONTAINERD" "$DIR/containerd"; install --containerd "$DIR/containerd"`,
			[]string{"no process runs", "/a.toml"},
		},
		"a restart by a systemd that does not run": {
			`[ ! -d /run/systemd ] || mount -t tmpfs none /run/systemd; config "$DIR/a.toml" "version = 2"; start "$CONTAINERD" "$DIR/a.toml"; install --restart`,
			[]string{"cannot restart containerd: this node does not run systemd", "--restart-by terminate", "installer.restartBy=terminate"},
		},
		"a program that others can replace": {`decoy "$DIR/x/containerd" env; chmod 777 "$DIR/x"; install`, []string{"cannot run ", "/x: chown"}},
		"a program that a group can change": {`decoy "$DIR/x/containerd" env; chgrp 50 "$DIR/x/containerd"; chmod 775 "$DIR/x/containerd"; install`, []string{"cannot run ", "/x/containerd: chown"}},
		"a program of the group root's":     {`decoy "$DIR/x/containerd" env; chmod 775 "$DIR/x/containerd"; install`, []string{"cannot run ", "/x/containerd: chown"}},
		"a set-user-id program":             {`decoy "$DIR/x/containerd" env; chmod 4755 "$DIR/x/containerd"; install`, []string{"cannot run ", "/x/containerd: chown"}},
		"a program in a sticky place":       {`decoy "$DIR/x/containerd" env; chmod 1777 "$DIR/x"; install`, []string{"cannot run ", "/x: chown"}},
		"a program of another user":         {`decoy "$DIR/x/containerd" env; chown 65534 "$DIR/x/containerd"; install`, []string{"cannot run ", "/x/containerd: chown"}},
		"a directory of another user":       {`decoy "$DIR/x/y/containerd" env; chown 65534 "$DIR/x"; install`, []string{"cannot run ", "/x: chown"}},
		"a program that is removed":         {`decoy "$DIR/x/containerd" env; rm "$DIR/x/containerd"; install`, []string{"cannot find "}},
		"a named program of another user":   {`cp /usr/bin/tail "$DIR/containerd"; chown 65534 "$DIR/containerd"; install --config "$DIR/a.toml" --containerd "$DIR/containerd"`, []string{"cannot run "}},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			out, err := n.run("2.4", c.script)
			if err == nil {
				t.Fatalf("it succeeds:\n%s", out)
			}
			for _, words := range c.words {
				if !strings.Contains(out, words) {
					t.Errorf("it does not say %q: %s", words, out)
				}
			}
			n.wantNothingInstalled()
		})
	}
}

// An upgrade has replaced the program of the containerd that runs: the new one, which its next start takes, is asked.
func TestC2NodeInstallAfterAnUpgrade(t *testing.T) {
	n := newNode(t)
	out, err := n.run("2.4", `
config "$DIR/config.toml" "version = 2"
cp "$CONTAINERD" "$DIR/containerd"
start "$DIR/containerd" "$DIR/config.toml"
cp "$CONTAINERD" "$DIR/new"; mv "$DIR/new" "$DIR/containerd"
install || { cat "$DIR/log"; exit 1; }
`)
	if err != nil || !strings.Contains(out, "in its configuration, "+n.dir+"/config.toml") {
		t.Fatalf("%v\n%s", err, out)
	}
}

// FAULTS C5: containerd 2.0 and 2.1 offer user namespaces and recursive read-only mounts with --runtime-path only, and the installer says so.
func TestC5NodeInstallOnOlderContainerd(t *testing.T) {
	for version, told := range map[string]bool{"2.0.14": true, "2.1.9": true, "2.2.9": false, "2.10.0": false} {
		t.Run(version, func(t *testing.T) {
			n := newNode(t)
			out, err := n.run("2.4", `
cat >"$DIR/containerd" <<-END
	#!/bin/bash
	[ "\$1" = --version ] || exec "$CONTAINERD" "\$@"
	echo "containerd github.com/containerd/containerd/v2 v`+version+` 0000"
END
chmod 755 "$DIR/containerd"
config "$DIR/config.toml" "version = 2"
install --config "$DIR/config.toml" --containerd "$DIR/containerd"
install --config "$DIR/config.toml" --containerd "$DIR/containerd" --runtime-path --cgroup-driver systemd >"$DIR/again"
`)
			if err != nil || !strings.Contains(out, "no running containerd reads that file") {
				t.Fatalf("%v\n%s", err, out)
			}
			if strings.Contains(out, "need --runtime-path") != told || strings.Contains(n.read("again"), "need --runtime-path") {
				t.Errorf("it says of --runtime-path:\n%s\n%s", out, n.read("again"))
			}
		})
	}
}

// What belongs to others is not written as root: neither a file behind a link of theirs, nor one that they could replace.
func TestNodeInstallRefusesPlacesOfOthers(t *testing.T) {
	for name, c := range map[string]struct{ script, culprit string }{
		"a directory of another user": {`chown 65534 "$DIR/x"; ln -s "$DIR/theirs" "$DIR/x/config.toml.lifecycle-new"`, "/x: chown"},
		"a directory such as /tmp":    {`chmod 1777 "$DIR/x"`, "/x: chown"},
		"a file of another user":      {`chown 65534 "$DIR/x/config.toml"`, "/x/config.toml: chown"},
		"a file that a group writes":  {`chmod 664 "$DIR/x/config.toml"`, "/x/config.toml: chown"},
		"another user's drop-ins":     {`mkdir "$DIR/x/conf.d"; chown 65534 "$DIR/x/conf.d"`, "/x/conf.d: chown"},
		"a link to another user's":    {`mkdir "$DIR/y"; chown 65534 "$DIR/y"; ln -s ../y "$DIR/x/conf.d"`, "/y: chown"},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			out, err := n.run("2.4", `
config "$DIR/x/config.toml" "version = 2"
cp "$DIR/x/config.toml" "$DIR/before"
start "$CONTAINERD" "$DIR/x/config.toml"
`+c.script+`
! install || exit 8
! install --undo || exit 8
rm -f "$DIR/x/config.toml.lifecycle-new"
`)
			if err != nil || strings.Count(out, c.culprit) < 2 || strings.Count(out, "cannot write ") != 2 {
				t.Errorf("%v\n%s", err, out)
			}
			if n.read("x/config.toml") != n.read("before") {
				t.Errorf("the configuration has changed: %s", n.read("x/config.toml"))
			}
			n.wantNothingInstalled()
		})
	}
}

// Any user can run the shim's program, and stop it so that it stays; a container can have a program of that path. Neither keeps root from
// taking everything back. A shim of root's does, also one whose program an upgrade has replaced.
func TestNodeUninstallIsNotHeldUp(t *testing.T) {
	for name, c := range map[string]struct {
		decoy string
		held  bool
	}{
		"another user's":               {`setpriv --reuid 65534 --regid 65534 --clear-groups`, false},
		"of another mount namespace":   {`unshare --mount`, false},
		"root's":                       {`env`, true},
		"root's, of the earlier build": {`env`, true},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			chmod, upgrade := `chmod -R a+rX "$PREFIX" "$(dirname "$PREFIX")"`, ""
			if strings.Contains(name, "earlier") {
				upgrade = `rm "$PREFIX/bin/containerd-shim-lifecycle-v2"`
			}
			out, err := n.run("2.4", `
config "$DIR/config.toml" "version = 2"
start "$CONTAINERD" "$DIR/config.toml"
install
`+chmod+`
decoy "$PREFIX/bin/containerd-shim-lifecycle-v2" `+c.decoy+`
`+upgrade+`
install --undo
`)
			if (err != nil) != c.held || strings.Contains(out, "while pods use it") != c.held {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}
