//go:build race

package kafkalog

// raced: the tests run with the race detector.
const raced = true
