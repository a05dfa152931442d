package membershipd

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
)

// errServer is wrapped by what the embedded server calls fatal.
var errServer = errors.New("the embedded server failed")

// serverLog hands the embedded server's lines to slog. What the server calls fatal must end the process: after Fatalf it
// simply returns from where it was, and would run on without its listener or without JetStream.
type serverLog struct {
	log   *slog.Logger
	fatal chan<- error // buffered; the first error counts
}

// Noticef implements the embedded server's Logger.
func (l *serverLog) Noticef(format string, v ...any) { l.log.Info(fmt.Sprintf(format, v...)) }

// Warnf implements the embedded server's Logger.
func (l *serverLog) Warnf(format string, v ...any) {
	if strings.HasPrefix(format, unverifiedRoutes) {
		return // not true: see keyring.verifyDialed
	}
	l.log.Warn(fmt.Sprintf(format, v...))
}

// unverifiedRoutes is what the embedded server says of routes whose certificates its TLS library does not verify by itself.
const unverifiedRoutes = "TLS certificate chain and hostname of solicited routes will not be verified"

// Errorf implements the embedded server's Logger.
func (l *serverLog) Errorf(format string, v ...any) {
	msg := fmt.Sprintf(format, v...)
	if strings.Contains(msg, groupEnded) {
		l.end(msg)
		return
	}
	l.log.Error(msg)
}

// groupEnded is what the embedded server says when it ends one Raft group for ever, because its disk failed, and runs on without it.
const groupEnded = "Critical write error"

// Debugf implements the embedded server's Logger.
func (l *serverLog) Debugf(format string, v ...any) { l.log.Debug(fmt.Sprintf(format, v...)) }

// Tracef implements the embedded server's Logger.
func (l *serverLog) Tracef(format string, v ...any) { l.log.Debug(fmt.Sprintf(format, v...)) }

// Fatalf implements the embedded server's Logger.
func (l *serverLog) Fatalf(format string, v ...any) {
	l.end(fmt.Sprintf(format, v...))
}

func (l *serverLog) end(msg string) {
	l.log.Error(msg)
	select {
	case l.fatal <- fmt.Errorf("%w: %s", errServer, msg):
	default: // one is enough
	}
}
