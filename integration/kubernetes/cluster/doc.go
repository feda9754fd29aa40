// Package cluster runs a real Kubernetes for tests: etcd, kube-apiserver and kubelet from bin/kubernetes, and a
// containerd of the harness, in their own folders and on free ports of the loopback.
//
// StartAPI is enough for what only the API server does, such as admission policies; it takes seconds:
//
//	api, err := cluster.StartAPI(ctx, bin)
//	defer api.Close()
//	out, err := api.Kubectl(ctx, "apply", "-f", "policy.yaml")
//
// Start adds a node, whose containerd has the runtime handlers lifecycle and runc. There is no scheduler and no
// controller: a pod names its node (NodeName), or is bound to it (API.Bind), as a scheduler would do it.
//
//	c, err := cluster.Start(ctx, cluster.Config{BinDir: bin})
//	defer c.Close()
//	out, err := c.Kubectl(ctx, "apply", "-f", "deploy/kubernetes/runtimeclass.yaml")
//	err = c.Apply(ctx, manifest)
//	err = c.Bind(ctx, "lifecycle-demo")
//	out, err = c.Kubectl(ctx, "wait", "--for=condition=Ready", "pod/lifecycle-demo")
//
// Close takes everything back: processes, mounts, cgroups, the bridge, and the sysctls that the kubelet sets. What a
// killed test has left, the next start removes. It needs root. Only one cluster with a node runs on a machine at a time,
// and none where another kubelet is: a kubelet sets values of the whole machine.
package cluster
