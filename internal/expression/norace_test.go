//go:build !race

package expression_test

// detector is what the race detector allocates on its own behalf.
const detector = 0
