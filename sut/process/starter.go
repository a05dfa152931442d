package process

import (
	"errors"
	"os/exec"
	"runtime"
	"sync"
)

// starter starts all children from one thread that lives as long as the backend: the kernel's parent death signal comes when the *thread*
// that forked ends, and Go moves goroutines between threads, and ends some, as it likes.
type starter struct {
	work chan func()
	end  chan struct{}
	once sync.Once
}

func newStarter() *starter {
	s := &starter{work: make(chan func()), end: make(chan struct{})}
	go s.run()
	return s
}

func (s *starter) run() {
	runtime.LockOSThread() // never unlocked: the thread ends with the goroutine, and every child that is left with it
	for {
		select {
		case f := <-s.work:
			f()
		case <-s.end:
			return
		}
	}
}

func (s *starter) start(cmd *exec.Cmd) error {
	result := make(chan error, 1)
	select {
	case s.work <- func() { result <- cmd.Start() }:
		return <-result
	case <-s.end:
		return errors.New("the backend is closed")
	}
}

func (s *starter) stop() { s.once.Do(func() { close(s.end) }) }
