package node

import (
	"bytes"
	"fmt"
	"path/filepath"
)

// Files of distributions that generate containerd's configuration.
const (
	rancherTemplate  = "config.toml.tmpl"    // of a configuration of version 2
	rancherTemplate3 = "config-v3.toml.tmpl" // of version 3
	microK8sTemplate = "containerd-template.toml"
	rancherBase      = "{{ template \"base\" . }}\n"
)

// intoRancher is for k3s and rke2. Since 2026-02 they import a directory of drop-ins; before, and with containerd 1.x, which
// would forget CRI's settings, the handler goes into their template.
func (p *Plan) intoRancher(f Facts, text []byte, config parsed) *Failure {
	dir := filepath.Dir(f.Config)
	if !old(f.Version) {
		for _, name := range []string{"config-v3.toml.d", "config.toml.d"} {
			if dropin := filepath.Join(dir, name, dropinName); config.importsFile(dir, dropin) {
				p.Files = append(p.Files, File{Path: dropin, Content: p.Handler.dropin(3)})
				return nil
			}
		}
	}
	template := filepath.Join(dir, rancherTemplate3)
	if _, has := f.Files[filepath.Join(dir, rancherTemplate)]; old(f.Version) || config.version < 3 && has && f.Files[template] == nil {
		template = filepath.Join(dir, rancherTemplate)
	}
	if _, has := f.Files[template]; !has && !since(f.Version, 1, 7, 3) {
		return fail(StepConfig, "", "%s is generated whenever %s starts, and a release with containerd %s has no base template: copy its whole template to %s, and run this again. Nothing is changed.",
			f.Config, p.Layout, f.Version, template)
	}
	return p.intoTemplate(f, text, config, template)
}

// intoTemplate appends the handler to the template from which the distribution generates the configuration.
func (p *Plan) intoTemplate(f Facts, text []byte, config parsed, template string) *Failure {
	own, err := withoutBlock(f.Files[template])
	if err != nil {
		return fail(StepConfig, "", "cannot change %s: %s. Nothing is changed.", template, err)
	}
	version := templateVersion(config, template, f.Version)
	for _, v := range []int{2, 3} {
		for _, quote := range []string{"'", "\""} {
			table := fmt.Sprintf("[%s]", runtimeTable(v, handlerName))
			if bytes.Contains(own, bytes.ReplaceAll([]byte(table), []byte("'"), []byte(quote))) {
				return fail(StepConfig, "", "%s already has a runtime handler %q that this command did not add. Nothing is changed.", template, handlerName)
			}
		}
	}
	tables := p.Handler.tables(version)
	content := appended(own, tables)
	if len(own) == 0 {
		if p.Layout == LayoutMicroK8s {
			return fail(StepConfig, "", "%s is generated whenever microk8s starts, but its template %s is missing. Nothing is changed.", f.Config, template)
		}
		content = appended([]byte(rancherBase), tables) // not in the block: the whole configuration would be between our marks
	}
	p.Files = append(p.Files, File{Path: template, Content: content, Block: true})
	p.Preview = appended(text, tables)
	return nil
}

// templateVersion returns the version of the configuration that a template generates.
func templateVersion(config parsed, template, containerd string) int {
	switch {
	case filepath.Base(template) == rancherTemplate3:
		return 3
	case filepath.Base(template) == rancherTemplate || old(containerd) || config.version < 3:
		return 2
	}
	return 3
}

// intoK0s is for k0s, which imports the files of a directory, or merges them into what it generates.
func (p *Plan) intoK0s(f Facts, config parsed) {
	dir := filepath.Dir(f.Config)
	version := 3
	if old(f.Version) {
		version = 2
	}
	dropin := File{Path: filepath.Join(dir, "containerd.d", dropinName), Content: p.Handler.dropin(version)}
	p.Files = append(p.Files, dropin)
	if old(f.Version) || !config.importsFile(dir, dropin.Path) {
		p.Preview = dropin.Content
	}
}
