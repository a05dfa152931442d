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

// clockWord is one of the numbers behind the injected code, of 8 bytes each: how the clock is wrong, and until when.
type clockWord int

const (
	wordExpiry clockWord = iota // seconds since 1970 by the true clock: from then on nothing is added
	wordStart                   // nanoseconds since 1970 by the true clock: where rate and swing begin
	wordFixed                   // what is added always
	wordRate                    // what is added for each nanosecond since the start, in 2^-rateShift
	wordPeriod                  // how long each quarter of a swing lasts; 0 for none
	wordSwing                   // what the second quarter of a swing adds and the fourth takes away
	clockWords
)

const wordSize = 8

// assembler collects instructions that refer to the words behind them.
type assembler struct {
	code []byte
	refs map[int]clockWord // by the end of an instruction, in whose last four bytes the distance goes
}

func (a *assembler) emit(b ...byte) int {
	a.code = append(a.code, b...)
	return len(a.code)
}

// word emits an instruction with a word of the cell as its operand.
func (a *assembler) word(w clockWord, opcode ...byte) {
	a.refs[a.emit(append(opcode, 0, 0, 0, 0)...)] = w
}

// land lets short jumps, given by their ends, go to what is emitted next.
func (a *assembler) land(jumps ...int) {
	for _, j := range jumps {
		a.code[j-1] = byte(len(a.code) - j) //nolint:gosec // the code is shorter than 127 bytes from any jump to its target
	}
}

// clockCode is the diverted clock_gettime(clock in edi, result at rsi): the true time by system call; then, for CLOCK_REALTIME and
// CLOCK_REALTIME_COARSE, as long as the true second is below the expiry, what ClockParams.Ahead says. cell is where the words begin.
func clockCode() (code []byte, cell int) {
	a := &assembler{refs: map[int]clockWord{}}
	a.emit(0xb8, unix.SYS_CLOCK_GETTIME, 0, 0, 0) // mov eax, SYS_clock_gettime
	a.emit(0x0f, 0x05)                            // syscall
	a.emit(0x85, 0xff)                            // test edi, edi
	realtime := a.emit(0x74, 0)                   // jz: CLOCK_REALTIME
	a.emit(0x83, 0xff, unix.CLOCK_REALTIME_COARSE)
	other := a.emit(0x75, 0) // jne end
	a.land(realtime)
	a.emit(0x4c, 0x8b, 0x06)                      // mov r8, [rsi]
	a.word(wordExpiry, 0x4c, 0x3b, 0x05)          // cmp r8, [expiry]
	over := a.emit(0x7d, 0)                       // jge end
	a.emit(0x4d, 0x69, 0xc0, 0, 0xca, 0x9a, 0x3b) // imul r8, r8, 1e9
	a.emit(0x4c, 0x03, 0x46, 8)                   // add r8, [rsi+8]: the true time
	a.emit(0x4d, 0x89, 0xc1)                      // mov r9, r8
	a.word(wordStart, 0x4c, 0x2b, 0x0d)           // sub r9, [start]: the time that has passed
	a.word(wordFixed, 0x4c, 0x03, 0x05)           // add r8, [fixed]
	a.emit(0x4c, 0x89, 0xc8)                      // mov rax, r9
	a.word(wordRate, 0x48, 0xf7, 0x2d)            // imul qword [rate]: rdx:rax
	a.emit(0x48, 0x0f, 0xac, 0xd0, rateShift)     // shrd rax, rdx, rateShift
	a.emit(0x49, 0x01, 0xc0)                      // add r8, rax
	a.word(wordPeriod, 0x48, 0x8b, 0x0d)          // mov rcx, [period]
	a.emit(0x48, 0x85, 0xc9)                      // test rcx, rcx
	still := a.emit(0x74, 0)                      // jz out
	a.emit(0x4c, 0x89, 0xc8)                      // mov rax, r9
	a.emit(0x31, 0xd2)                            // xor edx, edx
	a.emit(0x48, 0xf7, 0xf1)                      // div rcx: which quarter it is
	a.emit(0xa8, 1)                               // test al, 1
	even := a.emit(0x74, 0)                       // jz out
	a.emit(0xa8, 2)                               // test al, 2
	fourth := a.emit(0x75, 0)                     // jnz: the fourth
	a.word(wordSwing, 0x4c, 0x03, 0x05)           // add r8, [swing]
	second := a.emit(0xeb, 0)                     // jmp out
	a.land(fourth)
	a.word(wordSwing, 0x4c, 0x2b, 0x05) // sub r8, [swing]
	a.land(still, even, second)
	a.emit(0x4c, 0x89, 0xc0)          // out: mov rax, r8
	a.emit(0x31, 0xd2)                // xor edx, edx
	a.emit(0xb9, 0, 0xca, 0x9a, 0x3b) // mov ecx, 1e9
	a.emit(0x48, 0xf7, 0xf1)          // div rcx
	a.emit(0x48, 0x89, 0x06)          // mov [rsi], rax
	a.emit(0x48, 0x89, 0x56, 8)       // mov [rsi+8], rdx
	a.emit(0x31, 0xc0)                // xor eax, eax
	a.land(other, over)
	a.emit(0xc3) // end: ret
	for len(a.code)%wordSize != 0 {
		a.emit(0x90)
	}
	cell = len(a.code)
	for at, w := range a.refs {
		binary.LittleEndian.PutUint32(a.code[at-4:], uint32(cell+wordSize*int(w)-at)) //nolint:gosec // small and positive
	}
	return append(a.code, make([]byte, wordSize*int(clockWords))...), cell
}

// patchClock diverts the process's clock and returns the address of the cell. Nothing is added yet. A process that was diverted before is left as it is.
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

// writeClock makes a running process's clock wrong in another way, until expiry. The clock is right while the words change.
func writeClock(pid int, cell uint64, p ClockParams, start time.Time, expiry int64) error {
	words := []int64{0, start.UnixNano(), p.OffsetSeconds * int64(time.Second), p.rate(), int64(p.period()), int64(p.swing())}
	return writeMemory(pid, cell, []int64{0}, words, []int64{expiry})
}

// extendClock writes the expiry alone.
func extendClock(pid int, cell uint64, expiry int64) error {
	return writeMemory(pid, cell, []int64{expiry})
}

// writeMemory writes numbers at an address of the process, one slice after the other, each of them there.
func writeMemory(pid int, at uint64, all ...[]int64) error {
	mem, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("open memory of process %d: %w", pid, err)
	}
	for _, words := range all {
		var b []byte
		for _, w := range words {
			b = binary.LittleEndian.AppendUint64(b, uint64(w)) //nolint:gosec // two's complement is meant
		}
		if _, werr := mem.WriteAt(b, int64(at)); werr != nil { //nolint:gosec // an address of user space
			err = errors.Join(err, werr)
		}
	}
	if err = errors.Join(err, mem.Close()); err != nil {
		return fmt.Errorf("write clock of process %d: %w", pid, err)
	}
	return nil
}
