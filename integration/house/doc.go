// Package house holds tests of the repository itself: that its documents, its modules and its tests agree. They need no
// container and no root.
package house
