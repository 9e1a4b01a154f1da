//go:build !race

package kafkalog

// raced: the tests run without the race detector.
const raced = false
