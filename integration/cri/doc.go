// Package cri tests the shim through CRI, as the kubelet uses it: pods, stops with a grace period, restarts of containerd, NRI.
package cri
