package health

import (
	"os"
	"os/exec"
	"sync"
	"unsafe"

	"golang.org/x/sys/windows"
)

// group is the job object of one script; closing it ends every process in it. A process that the script starts before
// it is put into the job escapes; CREATE_SUSPENDED would close that gap but os/exec cannot resume.
type group struct {
	cmd *exec.Cmd

	mu  sync.Mutex
	job windows.Handle // 0: none
}

func newGroup(cmd *exec.Cmd) *group {
	g := &group{cmd: cmd}
	cmd.Cancel = func() error {
		g.close()
		return cmd.Process.Kill()
	}
	job, err := windows.CreateJobObject(nil, nil)
	if err != nil {
		return g
	}
	info := windows.JOBOBJECT_EXTENDED_LIMIT_INFORMATION{}
	info.BasicLimitInformation.LimitFlags = windows.JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE
	_, err = windows.SetInformationJobObject(job, windows.JobObjectExtendedLimitInformation,
		uintptr(unsafe.Pointer(&info)), uint32(unsafe.Sizeof(info)))
	if err != nil {
		_ = windows.CloseHandle(job)
		return g
	}
	g.job = job
	return g
}

// started puts the script into the job. Without a job the script alone is killed at its timeout.
func (g *group) started() {
	g.mu.Lock()
	defer g.mu.Unlock()
	h, err := windows.OpenProcess(windows.PROCESS_SET_QUOTA|windows.PROCESS_TERMINATE, false, uint32(g.cmd.Process.Pid))
	if err != nil || g.job == 0 {
		return
	}
	defer windows.CloseHandle(h)
	_ = windows.AssignProcessToJobObject(g.job, h)
}

func (g *group) reap() {}

func (g *group) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.job != 0 {
		_ = windows.CloseHandle(g.job)
		g.job = 0
	}
}

// scriptEnv passes only what a Windows program needs to start.
func scriptEnv() []string {
	var env []string
	for _, k := range []string{"SystemRoot", "SystemDrive", "ComSpec", "PATH", "PATHEXT", "TEMP", "TMP", "ProgramFiles"} {
		env = append(env, k+"="+os.Getenv(k))
	}
	return env
}
