package node

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// recordedLayouts are nodes of distributions, written down from their own sources and pages.
const recordedLayouts = "../../cmd/internal/node/testdata/layouts"

// recordedNode is node.json of a recorded layout.
type recordedNode struct {
	Config, Server, Regenerate string
	Path                       []string
	Places                     []struct {
		Dir      string
		Writable bool
	}
}

// layoutScript makes the recorded node: its files are at their own paths, in file systems over the machine's that end with the script. A containerd runs with the recorded
// configuration's path and PATH; it has a copy of the configuration's address, root and state elsewhere in these mounts.
const layoutScript = `
mkdir "$DIR/over"
mount -t tmpfs none "$DIR/over"
for top in etc var run home opt usr/local; do
	mkdir -p "$DIR/over/$top/upper" "$DIR/over/$top/work"
	mount -t overlay -o "lowerdir=/$top,upperdir=$DIR/over/$top/upper,workdir=$DIR/over/$top/work" none "/$top"
done
for dir in /etc/containerd /opt /usr/local/bin; do mount -t tmpfs -o mode=755 none "$dir"; done
mkdir -p /etc/k0s /etc/kubernetes /home/kubernetes /etc/lifecycle-shim /var/lib/rancher /var/lib/k0s /var/lib/kubelet /var/snap /run/k0s
if [ -e "$ROOT/etc/os-release" ]; then mount --bind "$ROOT/etc/os-release" /etc/os-release; fi
for top in etc/containerd etc/k0s etc/kubernetes var home run; do
	[ ! -d "$ROOT/$top" ] || cp -a "$ROOT/$top/." "/$top/"
done
[ ! -d "$ROOT/usr/bin" ] || mount -t overlay -o "lowerdir=$ROOT/usr/bin:/usr/bin" none /usr/bin
for dir in $READONLY; do mount -o remount,ro "$dir"; done
mkdir -p "$(dirname "$CONFIG")"
files() { # what is on the node: everything except the directories that containerd itself uses
	{ find /etc/containerd /etc/k0s /etc/kubernetes /etc/lifecycle-shim /var/lib/rancher /var/lib/k0s /var/lib/kubelet /var/lib/lifecycle-shim /var/snap /home/kubernetes /run/k0s /usr/local/bin /opt \
		\( -path /opt/containerd -o -path '*/cni-network' -o -path '*/agent/containerd' -o -path '*/etc/cni' -o -path '*/agent/etc/cni' \) -prune -o -printf '%p %y %m %U:%G %l ' \( -type f -exec sha256sum {} \; -o -printf '\n' \) 2>/dev/null || true; } | sort
}
regenerate() { # does what the distribution does when it starts
	local template dropin base
	[ ! -e "$DIR/generated" ] || cp "$DIR/generated" "$CONFIG"
	case $REGENERATE in
	rancher) # text/template: base is the generated configuration
		for template in "$(dirname "$CONFIG")"/config-v3.toml.tmpl "$(dirname "$CONFIG")"/config.toml.tmpl; do
			[ -e "$template" ] || continue
			base=$DIR/generated
			[ ! -e "$ROOT/../base.toml" ] || base=$ROOT/../base.toml
			awk -v base="$base" '$0 == "{{ template \"base\" . }}" {while ((getline line < base) > 0) print line; next} {print}' "$template" >"$CONFIG"
			return
		done
		;;
	microk8s) sed 's/${SNAPSHOTTER}/overlayfs/g; s/${RUNTIME}/runc/g; s/${RUNTIME_TYPE}/io.containerd.runc.v2/g; s#${SNAP_DATA}#/var/snap/microk8s/8300#g' "$(dirname "$CONFIG")/containerd-template.toml" >"$CONFIG" ;;
	k0s) # drop-ins with CRI's tables are merged into the imported file
		cp "$DIR/cri" /run/k0s/containerd-cri.toml
		for dropin in /etc/k0s/containerd.d/*.toml; do
			[ ! -e "$dropin" ] || grep -v '^version' "$dropin" >>/run/k0s/containerd-cri.toml
		done
		;;
	esac
}
[ ! -e "$CONFIG" ] || cp "$CONFIG" "$DIR/generated"
[ ! -e /run/k0s/containerd-cri.toml ] || cp /run/k0s/containerd-cri.toml "$DIR/cri"
files >"$DIR/before"
run_containerd() {
	local named="--config $CONFIG"
	[ -e "$CONFIG" ] || named= # it would not start
	(export PATH=$NODEPATH; exec -a containerd "$CONTAINERD" $named --root "$DIR/c.root" --state "$DIR/c.state" --address "$DIR/c.sock") >"$DIR/log" 2>&1 & started=$!
	running $started "$CONTAINERD"
}
ctl() { "$CTL" node "$@"; }
sees() { "$CONTAINERD" --config "$CONFIG" config dump 2>/dev/null | grep -c 'containerd.runtimes.lifecycle\]' >/dev/null; }
`

// Every recorded layout: its containerd reads the handler after the distribution has generated the configuration again, a second
// installation changes nothing, after a reboot it repairs what is gone, and the removal leaves the node byte for byte as it was.
func TestNodeInstallLayouts(t *testing.T) {
	found, err := filepath.Glob(filepath.Join(recordedLayouts, "*", "node.json"))
	if err != nil || len(found) < 20 {
		t.Fatalf("%d layouts are recorded (%v)", len(found), err)
	}
	for _, path := range found {
		name := filepath.Base(filepath.Dir(path))
		if name == "docker" {
			continue // nothing is installed there: TestC2NodeInstallRefusesGenerated
		}
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			r := readRecorded(t, path)
			root, err := filepath.Abs(filepath.Join(filepath.Dir(path), "root"))
			if err != nil {
				t.Fatal(err)
			}
			readOnly := ""
			for _, place := range r.Places {
				if !place.Writable {
					readOnly += " /" + strings.Join(strings.Split(place.Dir, "/")[1:2], "")
				}
			}
			readOnly = strings.ReplaceAll(readOnly, "/usr", "/usr/local/bin")
			out, err := n.run(r.Server, layoutEnvironment(r, root, readOnly)+layoutScript+`
run_containerd
trap 'tail -n 5 "$DIR/log"' ERR
ctl install -o json >"$DIR/first"
[ "$REGENERATE" = '' ] || [ "$REGENERATE" = boot ] || regenerate
sees
ctl install -o json >"$DIR/second"
`+afterReboot(r)+`
kill $started; wait $started || true
ctl uninstall -o json >"$DIR/third"
[ "$REGENERATE" = '' ] || regenerate
files >"$DIR/after"
diff "$DIR/before" "$DIR/after"
! sees
`)
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			first, second := n.result("first"), n.result("second")
			if want := strings.SplitN(name, "-", 2)[0]; !strings.HasPrefix(first.Layout, layoutName(want, first.Layout)) {
				t.Errorf("the layout is %s", first.Layout)
			}
			if !first.Changed || second.Changed || first.Restart != "needed" {
				t.Errorf("the first result is %+v, the second %+v", first, second)
			}
			if strings.HasPrefix(name, "gke") && first.Programs != "/home/kubernetes/bin" {
				t.Errorf("the programs are in %s", first.Programs)
			}
		})
	}
}

// layoutName is the layout of a recorded node, whose name begins with the distribution's.
func layoutName(distribution, layout string) string {
	switch distribution {
	case "debian", "kubeadm":
		return "kubeadm"
	case "none":
		return "unknown"
	case "k0s":
		if layout == "unknown" || layout == "kubeadm" { // its administrator manages the configuration
			return layout
		}
	}
	return distribution
}

// afterReboot is for distributions that write the configuration at each boot, and so undo ours: status reports it, and the next
// installation repairs it.
func afterReboot(r recordedNode) string {
	if r.Regenerate != "boot" {
		return ""
	}
	return `
regenerate
! sees
! ctl status >"$DIR/status" 2>&1
grep 'is not as this build would write it' "$DIR/status"
ctl install >"$DIR/log2"
sees
`
}

func layoutEnvironment(r recordedNode, root, readOnly string) string {
	return "ROOT='" + root + "' CONFIG='" + r.Config + "' REGENERATE='" + r.Regenerate + "' NODEPATH='" + strings.Join(r.Path, ":") + "' READONLY='" + readOnly + "'\n"
}

func readRecorded(t *testing.T, path string) recordedNode {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var r recordedNode
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
	return r
}

// nodeResult is what lifecyclectl prints with -o json.
type nodeResult struct {
	Layout, Programs, Restart string
	Changed                   bool
	Files                     []string
	Containerd                struct {
		PID                            int
		Version, Config, Address, Unit string
	}
	Error *struct{ Step, Message, Cure string }
}

func (n nodeOf) result(name string) nodeResult {
	n.Helper()
	var r nodeResult
	if err := json.Unmarshal([]byte(n.read(name)), &r); err != nil {
		n.Fatalf("%v: %s", err, n.read(name))
	}
	return r
}
