package agent

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// patchTries is how often the threads are stopped until none of them is inside the vDSO.
	patchTries = 50
	// patchPause is the time between two tries.
	patchPause = time.Millisecond
	// eventStop is PTRACE_EVENT_STOP: the stop that PTRACE_INTERRUPT asks for.
	eventStop = 128
	vdsoEntry = "__vdso_clock_gettime"
	pageSize  = 4096
)

var errInVDSO = errors.New("a thread is inside the vDSO")

// clockCode is the diverted clock_gettime(clock in edi, result at rsi): the true time by system call; then, for CLOCK_REALTIME and
// CLOCK_REALTIME_COARSE, as long as the true second is below the expiry, plus the offset. Offset and expiry follow the code; cell is where.
func clockCode() (code []byte, cell int) {
	emit := func(b ...byte) int { code = append(code, b...); return len(code) }
	emit(0xb8, unix.SYS_CLOCK_GETTIME, 0, 0, 0) // mov eax, SYS_clock_gettime
	emit(0x0f, 0x05)                            // syscall
	emit(0x85, 0xff)                            // test edi, edi
	emit(0x74, 5)                               // jz over the next two instructions: CLOCK_REALTIME
	emit(0x83, 0xff, unix.CLOCK_REALTIME_COARSE)
	other := emit(0x75, 0)                          // jne end
	expiryRef := emit(0x48, 0x8b, 0x15, 0, 0, 0, 0) // mov rdx, [rip+expiry]
	emit(0x48, 0x39, 0x16)                          // cmp [rsi], rdx
	over := emit(0x7d, 0)                           // jge end
	offsetRef := emit(0x48, 0x8b, 0x15, 0, 0, 0, 0) // mov rdx, [rip+offset]
	end := emit(0x48, 0x01, 0x16)                   // add [rsi], rdx
	emit(0xc3)                                      // end: ret
	code[other-1], code[over-1] = byte(end-other), byte(end-over)
	for len(code)%8 != 0 {
		emit(0x90)
	}
	cell = len(code)
	binary.LittleEndian.PutUint32(code[offsetRef-4:], uint32(cell-offsetRef))   //nolint:gosec // small and positive
	binary.LittleEndian.PutUint32(code[expiryRef-4:], uint32(cell+8-expiryRef)) //nolint:gosec // small and positive
	return append(code, make([]byte, 16)...), cell
}

// patchClock diverts the process's clock and returns the address of the cell. The offset in it is 0. A process that was diverted before is left as it is.
func patchClock(pid int) (cell uint64, err error) {
	runtime.LockOSThread() // the kernel ties a tracer to its thread
	defer runtime.UnlockOSThread()
	for range patchTries {
		cell, err = tryPatchClock(pid)
		if !errors.Is(err, errInVDSO) {
			break
		}
		t := time.NewTimer(patchPause)
		<-t.C
	}
	if err != nil {
		return 0, fmt.Errorf("divert clock of process %d: %w", pid, err)
	}
	return cell, nil
}

func tryPatchClock(pid int) (cell uint64, err error) {
	t := &tracee{pid: pid, stopped: map[int]int{}}
	defer func() { err = errors.Join(err, t.detach()) }()
	if err := t.stopAll(); err != nil {
		return 0, err
	}
	vdso, err := findVDSO(pid)
	if err != nil {
		return 0, err
	}
	entry, err := vdso.entry(pid)
	if err != nil {
		return 0, err
	}
	code, at := clockCode()
	if page, ok := diverted(pid, entry); ok {
		return page + uint64(at), nil //nolint:gosec // an index
	}
	if err := t.outside(vdso); err != nil {
		return 0, err
	}
	page, err := t.mapPage(entry)
	if err != nil {
		return 0, err
	}
	if _, err := unix.PtracePokeData(pid, uintptr(page), code); err != nil {
		return 0, fmt.Errorf("write code: %w", err)
	}
	if _, err := unix.PtracePokeText(pid, uintptr(entry), jump(page)); err != nil {
		return 0, fmt.Errorf("divert: %w", err)
	}
	return page + uint64(at), nil //nolint:gosec // an index
}

// jump is: mov rax, page; jmp rax; and padding.
func jump(page uint64) []byte {
	b := append([]byte{0x48, 0xb8}, binary.LittleEndian.AppendUint64(nil, page)...)
	return append(b, 0xff, 0xe0, 0x90, 0x90, 0x90, 0x90)
}

// diverted recognizes the jump of an earlier patch.
func diverted(pid int, entry uint64) (page uint64, ok bool) {
	b := make([]byte, 16)
	if _, err := unix.PtracePeekText(pid, uintptr(entry), b); err != nil {
		return 0, false
	}
	page = binary.LittleEndian.Uint64(b[2:])
	return page, bytes.Equal(b, jump(page))
}

// tracee is a process whose threads are stopped, each with the signal that it was about to get.
type tracee struct {
	pid     int
	stopped map[int]int
}

// stopAll stops every thread, also those that are made meanwhile.
func (t *tracee) stopAll() error {
	for {
		entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", t.pid))
		if err != nil {
			return fmt.Errorf("list threads: %w", err)
		}
		fresh := 0
		for _, e := range entries {
			tid, err := strconv.Atoi(e.Name())
			if _, known := t.stopped[tid]; known || err != nil {
				continue
			}
			fresh++
			if err := t.stop(tid); err != nil {
				return err
			}
		}
		if fresh == 0 {
			return nil
		}
	}
}

func (t *tracee) stop(tid int) error {
	err := unix.PtraceSeize(tid)
	switch {
	case errors.Is(err, unix.ESRCH):
		return nil // it is gone; the next look does not list it
	case errors.Is(err, unix.EPERM):
		return &Error{Code: CodeUnsupported, Text: "the agent may not trace the daemon: it lacks the capability SYS_PTRACE, or another tracer has it"}
	case err != nil:
		return fmt.Errorf("trace thread %d: %w", tid, err)
	}
	t.stopped[tid] = 0
	if err := unix.PtraceInterrupt(tid); err != nil {
		return fmt.Errorf("stop thread %d: %w", tid, err)
	}
	sig, err := wait(tid)
	if errors.Is(err, unix.ECHILD) || errors.Is(err, errThreadGone) {
		delete(t.stopped, tid)
		return nil
	}
	t.stopped[tid] = sig
	return err
}

var errThreadGone = errors.New("the thread has ended")

// wait returns the signal that the thread was about to get when it stopped, or 0.
func wait(tid int) (int, error) {
	var ws unix.WaitStatus
	for {
		_, err := unix.Wait4(tid, &ws, unix.WALL, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("wait for thread %d: %w", tid, err)
		}
		break
	}
	switch {
	case ws.Exited() || ws.Signaled():
		return 0, errThreadGone
	case uint32(ws)>>16 == eventStop:
		return 0, nil
	default:
		return int(ws.StopSignal()), nil
	}
}

// detach lets every thread go on, with its signal.
func (t *tracee) detach() error {
	var errs []error
	for tid, sig := range t.stopped {
		_, _, e := unix.RawSyscall6(unix.SYS_PTRACE, unix.PTRACE_DETACH, uintptr(tid), 0, uintptr(sig), 0, 0)
		if e != 0 && e != unix.ESRCH {
			errs = append(errs, fmt.Errorf("let thread %d go: %w", tid, e))
		}
	}
	return errors.Join(errs...)
}

// outside is an error when a thread is inside the vDSO: it would go on in the middle of changed code.
func (t *tracee) outside(v vdso) error {
	for tid := range t.stopped {
		var r unix.PtraceRegs
		if err := unix.PtraceGetRegs(tid, &r); err != nil {
			return fmt.Errorf("read registers of thread %d: %w", tid, err)
		}
		if r.Rip >= v.from && r.Rip < v.to {
			return errInVDSO
		}
	}
	return nil
}

// mapPage lets the process's main thread map a page for itself, with two instructions that stand at scratch for that time.
func (t *tracee) mapPage(scratch uint64) (page uint64, err error) {
	var was unix.PtraceRegs
	if err := unix.PtraceGetRegs(t.pid, &was); err != nil {
		return 0, fmt.Errorf("read registers: %w", err)
	}
	saved := make([]byte, 8)
	if _, err := unix.PtracePeekText(t.pid, uintptr(scratch), saved); err != nil {
		return 0, fmt.Errorf("read vDSO: %w", err)
	}
	if _, err := unix.PtracePokeText(t.pid, uintptr(scratch), []byte{0x0f, 0x05, 0xcc, 0x90, 0x90, 0x90, 0x90, 0x90}); err != nil { // syscall; int3
		return 0, fmt.Errorf("write vDSO: %w", err)
	}
	defer func() {
		_, perr := unix.PtracePokeText(t.pid, uintptr(scratch), saved)
		err = errors.Join(err, perr, unix.PtraceSetRegs(t.pid, &was))
	}()
	call := was
	call.Rip, call.Rax, call.Orig_rax = scratch, unix.SYS_MMAP, ^uint64(0)
	call.Rdi, call.Rsi, call.Rdx = 0, pageSize, unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC
	call.R10, call.R8, call.R9 = unix.MAP_PRIVATE|unix.MAP_ANONYMOUS, ^uint64(0), 0
	if err := unix.PtraceSetRegs(t.pid, &call); err != nil {
		return 0, fmt.Errorf("write registers: %w", err)
	}
	if err := t.toTrap(); err != nil {
		return 0, err
	}
	var got unix.PtraceRegs
	if err := unix.PtraceGetRegs(t.pid, &got); err != nil {
		return 0, fmt.Errorf("read registers: %w", err)
	}
	if got.Rax > ^uint64(pageSize) {
		return 0, fmt.Errorf("map a page in the process: %w", unix.Errno(-got.Rax))
	}
	return got.Rax, nil
}

// toTrap lets the main thread run into the breakpoint. A signal that comes in between is kept for later.
func (t *tracee) toTrap() error {
	for {
		if err := unix.PtraceCont(t.pid, 0); err != nil {
			return fmt.Errorf("run main thread: %w", err)
		}
		sig, err := wait(t.pid)
		if err != nil {
			return err
		}
		if unix.Signal(sig) == unix.SIGTRAP {
			return nil
		}
		if sig != 0 {
			t.stopped[t.pid] = sig
		}
	}
}

// vdso is where the kernel has mapped its code into a process.
type vdso struct{ from, to uint64 }

func findVDSO(pid int) (vdso, error) {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return vdso{}, fmt.Errorf("read memory map: %w", err)
	}
	for line := range strings.Lines(string(maps)) {
		if !strings.HasSuffix(strings.TrimSpace(line), "[vdso]") {
			continue
		}
		var v vdso
		if _, err := fmt.Sscanf(line, "%x-%x", &v.from, &v.to); err != nil {
			return v, fmt.Errorf("read memory map: %w", err)
		}
		return v, nil
	}
	return vdso{}, &Error{Code: CodeUnsupported, Text: "the daemon has no vDSO: its clock cannot be diverted"}
}

// entry is the address of clock_gettime.
func (v vdso) entry(pid int) (uint64, error) {
	image := make([]byte, v.to-v.from)
	if _, err := unix.PtracePeekData(pid, uintptr(v.from), image); err != nil {
		return 0, fmt.Errorf("read vDSO: %w", err)
	}
	f, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return 0, fmt.Errorf("read vDSO: %w", err)
	}
	symbols, err := f.DynamicSymbols()
	if err != nil {
		return 0, fmt.Errorf("read vDSO: %w", err)
	}
	for _, s := range symbols {
		if s.Name == vdsoEntry {
			return v.from + s.Value, nil
		}
	}
	return 0, &Error{Code: CodeUnsupported, Text: "the kernel's vDSO has no " + vdsoEntry}
}

// writeClock writes offset and expiry, in seconds, into a running process. The expiry comes last in force and first out of it, so that no reader sees an
// old offset with a new expiry for longer than it takes to write the other.
func writeClock(pid int, cell uint64, offset, expiry int64) error {
	mem, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("open memory of process %d: %w", pid, err)
	}
	b := binary.LittleEndian.AppendUint64(nil, uint64(offset)) //nolint:gosec // two's complement is meant
	b = binary.LittleEndian.AppendUint64(b, uint64(expiry))    //nolint:gosec // two's complement is meant
	_, err = mem.WriteAt(b, int64(cell))                       //nolint:gosec // an address of user space
	if err = errors.Join(err, mem.Close()); err != nil {
		return fmt.Errorf("write clock of process %d: %w", pid, err)
	}
	return nil
}
