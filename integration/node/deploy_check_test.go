package node

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lifecycle-shim/lifecycle-shim/integration/bed"
)

// supervisor starts a containerd whenever it ends, as a unit does. It serves CRI, and touches nothing of the machine's.
const supervisor = `
PATHS="$PREFIX/bin:$SERVERS:/usr/sbin:/usr/bin:/sbin:/bin"
mkdir "$DIR/s"
mount -t tmpfs none /run # runc's state, and the files of the self test
make() { # VERSION
	{
		cat <<-END
			version = $1
			root = '$DIR/c.root'
			state = '$DIR/c.state'
			[grpc]
			address = '$DIR/c.sock'
		END
		if [ "$1" = 3 ]; then
			printf "[plugins.'io.containerd.shim.v1.manager']\nsocket_dir = '$DIR/s'\n[plugins.'io.containerd.nri.v1.nri']\ndisable = true\n"
			printf "[plugins.'io.containerd.cri.v1.runtime'.cni]\nconf_dir = '$DIR/cni'\n[plugins.'io.containerd.internal.v1.opt']\npath = '$DIR/opt'\n"
		else
			printf "[plugins.'io.containerd.grpc.v1.cri'.cni]\nconf_dir = '$DIR/cni'\n[plugins.'io.containerd.internal.v1.opt']\npath = '$DIR/opt'\n"
		fi
	} >"$DIR/config.toml"
}
supervise() {
	(
		trap 'kill $child; wait $child; exit 0' TERM
		while true; do
			(export PATH=$PATHS; exec -a containerd "$CONTAINERD" --config "$DIR/config.toml") >>"$DIR/log" 2>&1 & child=$!
			wait $child || true
			[ ! -e "$DIR/stop" ] || exit 0
		done
	) & supervisor=$!
	for i in $(seq 300); do
		! "$CTR" --address "$DIR/c.sock" version >/dev/null 2>&1 || return 0
		sleep 0.1
	done
	tail "$DIR/log"; exit 9
}
ctl() { "$CTL" node "$@"; }
files() { find "$DIR" "$PREFIX" \( -path "$DIR/c.root" -o -path "$DIR/c.state" -o -path "$DIR/opt" -o -path "$DIR/s" -o -path "$DIR/cni" -o -name 'out.*' -o -name log -o -name 'c.sock*' -o -path "$DIR/before" -o -path "$DIR/after" \) -prune -o -printf '%p %y %m %U:%G %l ' \( -type f -exec sha256sum {} \; -o -printf '\n' \) | sort; }
end() { touch "$DIR/stop"; kill $supervisor; wait $supervisor || true; }
namespaces() { "$CTR" --address "$DIR/c.sock" namespaces ls -q; }
`

// checkResult is what `node check -o json` prints.
type checkResult struct {
	OK       bool
	Findings []struct{ Level, Check, Message string }
	SelfTest struct {
		OK           bool
		Message      string
		Milliseconds int64
	}
}

func (n nodeOf) check(name string) checkResult {
	n.Helper()
	var r checkResult
	if err := json.Unmarshal([]byte(n.read(name)), &r); err != nil {
		n.Fatalf("%v: %s", err, n.read(name))
	}
	return r
}

// configVersion is the version of the configuration that a containerd gets.
func configVersion(server string) string {
	if server == "2.4" {
		return "3"
	}
	return "2"
}

// A containerd under a supervisor: the installation restarts it, the node is current, a real container runs with all four handlers,
// nothing of it stays, and the removal leaves the node as it was.
func TestNodeCheck(t *testing.T) {
	t.Cleanup(func() { // after the parallel ones
		bed.Poll(t, "the cgroups of self tests to be removed", func() bool {
			found, err := filepath.Glob("/sys/fs/cgroup/*/lifecycle-shim-check-*")
			if direct, _ := filepath.Glob("/sys/fs/cgroup/lifecycle-shim-check-*"); err == nil {
				found = append(found, direct...)
			}
			return len(found) == 0
		})
	})
	for _, server := range []string{"2.4", "1.7", "1.6"} {
		t.Run(server, func(t *testing.T) {
			n := newNode(t)
			out, err := n.run(server, supervisor+`
make `+configVersion(server)+`
supervise
files >"$DIR/before"
! ctl check --prefix "$PREFIX" -o json >"$DIR/out.early"
ctl install --prefix "$PREFIX" --restart-by terminate -o json >"$DIR/out.install"
ctl status --prefix "$PREFIX" -o json
ctl check -o json >"$DIR/out.check"
ctl install --prefix "$PREFIX" --restart-by terminate -o json >"$DIR/out.again"
[ "$(namespaces | grep -c lifecycle-shim-check)" = 0 ]
[ -z "$(ls /run | grep lifecycle-shim)" ]
ctl uninstall --prefix "$PREFIX" --restart-by terminate -o json >"$DIR/out.uninstall"
! ctl status --prefix "$PREFIX" -o json
files >"$DIR/after"
diff "$DIR/before" "$DIR/after"
end
`)
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			install, again, uninstall := n.result("out.install"), n.result("out.again"), n.result("out.uninstall")
			if install.Restart != "done" || again.Restart != "not needed" || again.Changed || again.Containerd.PID != install.Containerd.PID || uninstall.Restart != "done" {
				t.Errorf("install %+v\nagain %+v\nuninstall %+v", install, again, uninstall)
			}
			if early := n.check("out.early"); early.OK || len(early.Findings) == 0 || early.SelfTest.OK {
				t.Errorf("before the installation: %+v", early)
			}
			if check := n.check("out.check"); !check.OK || !check.SelfTest.OK || check.SelfTest.Milliseconds == 0 || check.SelfTest.Message != "" {
				t.Errorf("after the installation: %+v", check)
			}
		})
	}
}

// A self test that fails says why, and leaves nothing. One that was killed is cleaned up by the next.
func TestNodeCheckFails(t *testing.T) {
	n := newNode(t)
	out, err := n.run("2.4", supervisor+`
make 3
supervise
ctl install --prefix "$PREFIX" --restart-by terminate >"$DIR/out.install"
mv "$PREFIX/bin/lifecyclectl" "$PREFIX/bin/gone"
cp /usr/bin/false "$PREFIX/bin/lifecyclectl"
! ctl check -o json >"$DIR/out.check"
[ "$(namespaces | grep -c lifecycle-shim-check)" = 0 ]
[ -z "$(ls /run | grep lifecycle-shim-check)" ]
mv -f "$PREFIX/bin/gone" "$PREFIX/bin/lifecyclectl"
"$CTR" --address "$DIR/c.sock" namespaces create lifecycle-shim-check-999999-1
mkdir -p /run/lifecycle-shim-check-999999-1/results
ctl check -o json >"$DIR/out.second"
[ "$(namespaces | grep -c lifecycle-shim-check)" = 0 ]
[ -z "$(ls /run | grep lifecycle-shim-check)" ]
end
`)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if check := n.check("out.check"); check.OK || check.SelfTest.OK || !strings.Contains(check.SelfTest.Message, "preStart") {
		t.Errorf("the self test reports %+v", check)
	}
	if check := n.check("out.second"); !check.OK {
		t.Errorf("the second check reports %+v", check)
	}
}

// A containerd that does not return with the handler gets its previous configuration back, and runs again.
func TestNodeInstallTakesBackWhatContainerdRefuses(t *testing.T) {
	n := newNode(t)
	out, err := n.run("2.4", supervisor+`
make 3
cat >"$DIR/broken" <<-END
	#!/bin/bash
	if [ -e "$DIR/conf.d/lifecycle.toml" ] && [ "\$3" = "" ] && [ "\$1" != --version ]; then exit 1; fi
	exec -a containerd $CONTAINERD "\$@"
END
chmod 755 "$DIR/broken"
real=$CONTAINERD; CONTAINERD=$DIR/broken
supervise
files >"$DIR/before"
! ctl install --prefix "$PREFIX" --restart-by terminate --restart-within 5s -o json >"$DIR/out.install"
files >"$DIR/after"
diff "$DIR/before" "$DIR/after"
"$CTR" --address "$DIR/c.sock" version >/dev/null
end
`)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	r := n.result("out.install")
	if r.Error == nil || r.Error.Step != "restart" || !strings.Contains(r.Error.Message, "runs with its previous configuration again") || r.Changed {
		t.Errorf("the result is %+v, %+v", r, r.Error)
	}
}
