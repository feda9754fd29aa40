package node

import "fmt"

// numbersOf returns the first three numbers of a version. Those that are missing are 0.
func numbersOf(version string) [3]int {
	var n [3]int
	_, _ = fmt.Sscanf(version, "%d.%d.%d", &n[0], &n[1], &n[2]) // fewer numbers, or a suffix, are no error
	return n
}

// since reports whether a version is that one or newer.
func since(version string, major, minor, patch int) bool {
	n := numbersOf(version)
	switch {
	case n[0] != major:
		return n[0] > major
	case n[1] != minor:
		return n[1] > minor
	}
	return n[2] >= patch
}

// supported reports whether the handler is known to work with that containerd.
func supported(version string) bool {
	return since(version, 1, 6, 0) && !since(version, 3, 0, 0) && !(old(version) && since(version, 1, 8, 0))
}

// old reports whether a containerd is 1.x.
func old(version string) bool { return numbersOf(version)[0] == 1 }

// ignoresRuntimePath reports whether CRI of that containerd ignores runtime_path: 1.6.21 is the first 1.6 that does not.
func ignoresRuntimePath(version string) bool { return !since(version, 1, 6, 21) }
