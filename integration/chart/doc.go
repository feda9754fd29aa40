// Package chart tests deploy/charts/lifecycle-shim without a cluster, with Helm 3 and Helm 4: what it renders, which
// values it takes, and that the plain manifests are the same. integration/kubernetes/chart installs it.
package chart
