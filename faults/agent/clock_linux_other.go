//go:build linux && !amd64

package agent

import "time"

var errNoClock = &Error{Code: CodeUnsupported, Text: "the daemon's clock can be moved on Linux on amd64 only"}

func patchClock(int) (uint64, error) { return 0, errNoClock }

func writeClock(int, uint64, ClockParams, time.Time, int64) error { return errNoClock }

func extendClock(int, uint64, int64) error { return errNoClock }
