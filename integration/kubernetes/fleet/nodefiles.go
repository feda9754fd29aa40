package fleet

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/lifecycle-shim/lifecycle-shim/integration/kubernetes/fleet/boot"
)

// caFile is the certificate that clients on a node trust.
const caFile = "etc/kubernetes/ca.crt"

// writeFiles writes what makes the node this one.
func (n *Node) writeFiles() error {
	config, err := os.ReadFile(filepath.Join(n.fleet.base(), "etc/containerd/config.toml"))
	if err != nil {
		return err
	}
	files := map[string]string{
		"etc/machine-id":                 machineID(),
		"etc/kubernetes/kubelet.yaml":    kubeletConfig,
		"etc/kubernetes/proxy.yaml":      fmt.Sprintf(proxyConfig, n.Name, allPods),
		"etc/cni/net.d/10-pods.conflist": fmt.Sprintf(podNetwork, podRange(n.number)),
	}
	if n.Systemd { // as kubeadm's documentation has it
		files["etc/containerd/config.toml"] = strings.Replace(string(config), "SystemdCgroup = false", "SystemdCgroup = true", 1)
		for name, text := range n.units() {
			files["etc/systemd/system/"+name] = text
		}
	}
	for path, text := range n.Files {
		files[strings.TrimPrefix(path, "/")] = text
	}
	var errs []error
	for path, text := range files {
		errs = append(errs, writeFile(filepath.Join(n.layer("upper"), path), text))
	}
	for file, user := range map[string]string{"kubelet": "system:node:" + n.Name, "proxy": "system:kube-proxy"} {
		path := filepath.Join(n.layer("upper"), "etc/kubernetes", file+".kubeconfig")
		errs = append(errs, n.fleet.writeKubeconfig(path, user, "/"+caFile))
	}
	return errors.Join(errs...)
}

// programs are the node's services: with systemd its units run them.
func (n *Node) programs() []boot.Program {
	kubelet := []string{
		"/usr/local/bin/kubelet", "--config=/etc/kubernetes/kubelet.yaml", "--kubeconfig=/etc/kubernetes/kubelet.kubeconfig",
		"--hostname-override=" + n.Name, "--node-ip=" + n.Address, "--v=2",
	}
	if n.Labels != "" {
		kubelet = append(kubelet, "--node-labels="+n.Labels)
	}
	if n.Taints != "" {
		kubelet = append(kubelet, "--register-with-taints="+n.Taints)
	}
	return []boot.Program{
		{Name: "containerd", Args: []string{"/usr/local/bin/containerd"}},
		{Name: "kubelet", Args: kubelet},
		{Name: "kube-proxy", Args: []string{"/usr/local/bin/kube-proxy", "--config=/etc/kubernetes/proxy.yaml"}},
	}
}

// kubeletConfig: the defaults, but for what needs rights that a machine for tests may not have, and what would act on a full disk.
const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
cgroupDriver: cgroupfs               # what containerd says goes before it
failCgroupV1: false
failSwapOn: false
oomScoreAdj: 0
localStorageCapacityIsolation: false # else it insists on disk quota statistics of its folder
resolvConf: ""
clusterDNS: [10.214.0.10]            # unused: without one each pod would get a warning
imageGCHighThresholdPercent: 100
evictionHard: {memory.available: "0%", nodefs.available: "0%", nodefs.inodesFree: "0%", imagefs.available: "0%", imagefs.inodesFree: "0%"}
`

// proxyConfig: the defaults, but for the limits of conntrack, which are the machine's.
const proxyConfig = `apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
hostnameOverride: %s
clusterCIDR: %s
clientConnection: {kubeconfig: /etc/kubernetes/proxy.kubeconfig}
conntrack: {maxPerCore: 0, min: 0, tcpCloseWaitTimeout: 0s, tcpEstablishedTimeout: 0s}
`

// podNetwork is what most networks come to on one node: a bridge, and addresses of the node's range.
const podNetwork = `{"cniVersion": "1.0.0", "name": "pods", "plugins": [{
  "type": "bridge", "bridge": "cni0", "isDefaultGateway": true, "ipMasq": false, "hairpinMode": true,
  "ipam": {"type": "host-local", "ranges": [[{"subnet": %q}]]}
}]}
`
