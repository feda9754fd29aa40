// Package debian tries the Debian package on a fresh Debian 12, as its user would: beside Debian's own containerd and runc, with the
// commands of the documentation. The system is made by debootstrap in its own directory, and its processes run in
// their own namespaces, so that nothing of it is left when they end. It needs root, a Debian mirror, and what `make package image` has made:
//
//	make check-package
package debian
