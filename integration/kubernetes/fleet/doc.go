// Package fleet runs a Kubernetes of several nodes on one machine: etcd, API server (Node and RBAC authorization, the default admission
// plugins and NodeRestriction), controller manager, scheduler, a registry, and nodes with a containerd, a kubelet and a kube-proxy each.
//
//	f, err := fleet.Start(ctx, fleet.Config{BinDir: bin, Nodes: fleet.ThreeNodes})
//	defer f.Close()
//	out, err := f.Kubectl(ctx, "apply", "-f", "deployment.yaml")
//
// A node is what an installer finds on a real one: its own root filesystem, with containerd's stock configuration, its own processes, of
// which systemd or a supervisor is the first, its own cgroups and network. The machine's files lie below it, read-only. Nothing
// knows of the shim: a test of an installation installs it.
//
// The control plane is in a network namespace with a bridge, 10.215.0.0/24, to which the nodes are connected; pods have 10.216.N.0/24 on
// node N, services 10.214.0.0/24. None of it is reached from the machine's own network, nor reaches it.
//
// It needs root, cgroup v1 and about 2 GB of memory. What a killed test leaves, the next start removes: see cluster.Sweep.
package fleet
