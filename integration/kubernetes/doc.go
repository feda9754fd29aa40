// Package kubernetes tests the built binaries under a real kubelet, as the users of a cluster meet them: `make e2e`.
// It is no part of `make integration`, because of the ten minutes that building Kubernetes takes the first time.
//
// The cluster is in package cluster. Handlers are in the pods' specs, as everybody writes them, and the policies of
// deploy/ move them to where the shim reads them. Most tests share one cluster, and run beside each other; those that
// restart a kubelet or a containerd run before them. When all are over, nothing of a pod may be left; when the cluster is
// closed, nothing at all. As in package integration, containers and handlers are steered with files in their working
// directory.
package kubernetes
