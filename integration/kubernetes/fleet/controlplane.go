package fleet

import (
	"context"
	"crypto/rand"
	"os"
	"slices"

	"github.com/lifecycle-shim/lifecycle-shim/integration/kubernetes/cluster"
)

// maxNodes may be, and join at any time: tokens are read when the API server starts.
const maxNodes = 9

// users that a cluster made by kubeadm has, by name. Their rights come with the API server.
func users() []cluster.User {
	all := []cluster.User{
		{Name: "system:kube-scheduler"}, {Name: "system:kube-controller-manager"}, {Name: "system:kube-proxy"},
	}
	for _, name := range nodeNames() {
		all = append(all, cluster.User{Name: "system:node:" + name, Groups: []string{"system:nodes"}})
	}
	for i := range all {
		all[i].Token = rand.Text()
	}
	return all
}

// startControlPlane starts etcd, the API server, the controllers and the scheduler, without elections: there is one of each.
func (f *Fleet) startControlPlane(ctx context.Context) (err error) {
	f.place = cluster.Place{
		NetNS: f.Network.file, Address: apiAddress, Port: 6443, EtcdPort: 2379, PeerPort: 2380, Users: users(),
		Flags: []string{
			"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged=true",
			"--advertise-address=" + apiAddress, "--service-cluster-ip-range=" + services,
		},
	}
	f.API, err = cluster.StartAPIAt(ctx, f.cfg.BinDir, f.dir, f.place)
	if err != nil {
		return err
	}
	for _, server := range []struct {
		name, user string
		flags      []string
	}{
		{"kube-controller-manager", "system:kube-controller-manager", []string{
			"--use-service-account-credentials", "--service-account-private-key-file=" + f.path("accounts.key"), "--root-ca-file=" + f.Certificate(),
		}},
		{"kube-scheduler", "system:kube-scheduler", nil},
	} {
		kubeconfig := f.path(server.name + ".kubeconfig")
		if err := f.writeKubeconfig(kubeconfig, server.user, f.Certificate()); err != nil {
			return err
		}
		program := f.Program(server.name, append([]string{
			"--kubeconfig=" + kubeconfig, "--leader-elect=false", "--bind-address=" + apiAddress, "--cert-dir=" + f.path("certs-"+server.name),
		}, server.flags...)...)
		if err := program.Start(); err != nil {
			return err
		}
		f.programs = append(f.programs, &program)
	}
	return nil
}

func (f *Fleet) writeKubeconfig(path, user, certificate string) error {
	known := slices.IndexFunc(f.place.Users, func(u cluster.User) bool { return u.Name == user })
	return os.WriteFile(path, []byte(f.KubeconfigFor(f.place.Users[known].Token, certificate)), 0o600)
}
