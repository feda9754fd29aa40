//go:build !race

package oci

const slower = 1
