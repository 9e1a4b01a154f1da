package http_test

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if os.Getenv("TIDEWIRE_TEST_SINK") != "" {
		serveSink()
		return
	}
	goleak.VerifyTestMain(m)
}
