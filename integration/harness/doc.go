// Package harness runs black-box tests against a private containerd.
//
// StartDaemon starts one of the Servers with its own root, state and sockets below one short directory;
// Daemon.Client speaks to it; NewRootFS makes a root filesystem from Debian's static busybox; Watch says
// what a test left behind.
//
// A test's usual order:
//
//	d, err := harness.StartDaemon(ctx, harness.DaemonConfig{Server: s, BinDir: bin})
//	defer d.Close()
//	client, err := d.Client(namespace)
//	events, err := client.Events(ctx)                    // a shim whose events no client reads waits 5 s for each
//	watch := harness.Watch{Daemons: []*harness.Daemon{d}, CgroupParents: []string{"/lcs"}}
//	before, err := watch.TakeSnapshot()
//	c, err := client.NewContainer(ctx, harness.ContainerConfig{ID: "a", Args: []string{"sleep", "60"}})
//	pid, took, err := c.Run(ctx)
//	…
//	err = c.Remove(ctx)
//	leaks, err := watch.Leaks(ctx, before)               // bounded wait, then the list of what is new
//
// With DaemonConfig.CRI there are pods: Daemon.CRI speaks to the CRI plugin as the kubelet does, ImportImages has
// images made of local files, and each daemon has a pod network that touches nothing of the host's:
//
//	c, err := d.CRI()
//	err = c.ImportImages(ctx, harness.ImageBusybox)
//	pod, err := c.RunPod(ctx, harness.PodConfig{Name: "p", Handler: "lifecycle"})
//	container, err := pod.Create(ctx, harness.PodContainerConfig{Name: "a", Args: []string{"sleep", "60"}})
//	took, err := container.Start(ctx)
//	…
//	err = pod.Remove(ctx)
//
// The package knows nothing of the code under test: it must not import shim, hookexec or oci. It needs root.
// Nothing here is global: two daemons, of the same or of different versions, run side by side.
package harness
