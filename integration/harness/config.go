package harness

import (
	"fmt"
	"path/filepath"
	"strings"
)

// criPlugins are the plugins that make up CRI, under the names they have in this version.
func (s Server) criPlugins() []string {
	if !s.Modern() {
		return []string{"io.containerd.grpc.v1.cri"}
	}
	return []string{
		"io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime",
		"io.containerd.podsandbox.controller.v1.podsandbox",
	}
}

// configVersion is the newest format the server reads. 2.x would migrate version 2, with a warning.
func (s Server) configVersion() int {
	if s.Modern() {
		return 3
	}
	return 2
}

// containerdConfig is the text of containerd's configuration file: everything below d.Dir, and nothing
// switched on that could touch the machine outside it (the opt plugin makes /opt/containerd, NRI listens
// on /var/run/nri/nri.sock).
func (d *Daemon) containerdConfig() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }

	server := d.cfg.Server
	var disabled []string
	if d.cfg.Opt == "" {
		disabled = append(disabled, "io.containerd.internal.v1.opt")
	}
	if !d.cfg.CRI {
		disabled = append(disabled, server.criPlugins()...)
	}
	if !d.cfg.NRI && server.Modern() { // 1.7 has it off by default, 1.6 has none
		disabled = append(disabled, "io.containerd.nri.v1.nri")
	}

	line("version = %d", server.configVersion())
	if len(d.cfg.Imports) > 0 {
		line("imports = [%s]", quoteAll(d.cfg.Imports))
	}
	line("root = %q", d.Root)
	line("state = %q", filepath.Join(d.Dir, "state"))
	line("disabled_plugins = [%s]", quoteAll(disabled))
	line("[grpc]\naddress = %q", d.Address)
	line("[ttrpc]\naddress = %q", d.TTRPCAddress)
	if d.cfg.Opt != "" {
		line("[plugins.'io.containerd.internal.v1.opt']\npath = %q", d.cfg.Opt)
	}
	if d.cfg.Debug {
		line("[debug]\nlevel = \"debug\"")
	}
	if server.Modern() {
		// 1.x has no such option: its shims listen in /run/containerd/s, under a name that is a hash
		// of the daemon's address, the namespace and the id.
		line("[plugins.'io.containerd.shim.v1.manager']\nsocket_dir = %q", d.socketDir())
	}
	if d.cfg.NRI {
		line("[plugins.'io.containerd.nri.v1.nri']")
		line("disable = false")
		line("socket_path = %q", d.NRIAddress())
		line("plugin_path = %q", filepath.Join(d.Dir, "nri-plugins"))
		line("plugin_config_path = %q", filepath.Join(d.Dir, "nri-conf"))
	}
	switch {
	case d.cfg.CRI && server.Modern():
		d.criConfig(line)
	case d.cfg.CRI:
		d.oldCRIConfig(line)
	}
	b.WriteString(d.cfg.ExtraConfig)
	return b.String()
}

// criConfig keeps CRI's files below d.Dir too, and its images from being pulled.
func (d *Daemon) criConfig(line func(format string, args ...any)) {
	line("[plugins.'io.containerd.cri.v1.images'.pinned_images]\nsandbox = %q", imagePause)
	line("[plugins.'io.containerd.cri.v1.runtime']")
	line("restrict_oom_score_adj = true") // else a machine without CAP_SYS_RESOURCE runs no pod
	line("netns_mounts_under_state_dir = true")
	line("[plugins.'io.containerd.cri.v1.runtime'.cni]\nbin_dirs = [%q]\nconf_dir = %q", cniBinDir, d.cniConfDir())
	line("use_internal_loopback = true") // libcni would note what its plugin did, under no name of this daemon's
	d.handlersConfig("io.containerd.cri.v1.runtime", line)
}

// oldCRIConfig is the same for 1.x.
func (d *Daemon) oldCRIConfig(line func(format string, args ...any)) {
	line("[plugins.'io.containerd.grpc.v1.cri']\nsandbox_image = %q", imagePause)
	line("restrict_oom_score_adj = true\nnetns_mounts_under_state_dir = true")
	line("[plugins.'io.containerd.grpc.v1.cri'.cni]\nbin_dir = %q\nconf_dir = %q", cniBinDir, d.cniConfDir())
	if len(d.cfg.Handlers) > 0 { // it forgets its own where any is named
		line("[plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes.runc]\nruntime_type = %q", StockRuntime)
	}
	d.handlersConfig("io.containerd.grpc.v1.cri", line)
}

func (d *Daemon) handlersConfig(plugin string, line func(format string, args ...any)) {
	for name, handler := range d.cfg.Handlers {
		table := "[plugins.'" + plugin + "'.containerd.runtimes." + name
		line("%s]\nruntime_type = %q\nruntime_path = %q", table, handler.Type, handler.Path)
		line("pod_annotations = ['lifecycle-shim.io/*', '*.lifecycle-shim.io/*']\ncontainer_annotations = ['io.kubernetes.*']")
		line("%s.options]\nRoot = %q\nBinaryName = 'runc'\n%s", table, d.RuncRoot, handler.Options)
	}
}

func quoteAll(names []string) string {
	quoted := make([]string, len(names))
	for i, n := range names {
		quoted[i] = fmt.Sprintf("%q", n)
	}
	return strings.Join(quoted, ", ")
}
