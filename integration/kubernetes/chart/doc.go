// Package chart tests deploy/charts/lifecycle-shim on a real API server: what Helm installs, upgrades and removes, and what
// the installer's account may do to nodes. The tests of integration/chart need no cluster.
package chart
