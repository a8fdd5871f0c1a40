package resources

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"hacluster/internal/urgency"
)

// instanceVar marks all that a start brings up, however it forks.
const instanceVar = "HAD_INSTANCE"

// launch writes the record, forks into the new cgroup, and completes the record.
func (d *process) launch(epoch uint64) error {
	if err := os.MkdirAll(d.spec.StateDir, 0o755); err != nil {
		return fmt.Errorf("making the state directory: %w", err)
	}
	if err := rotate(d.file(".log"), logMax); err != nil {
		d.log.Warn("log cannot be rotated", "err", err)
	}
	out, err := os.OpenFile(d.file(".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return fmt.Errorf("opening the log: %w", err)
	}
	defer out.Close()
	r := record{Group: d.spec.Group, Resource: d.spec.Name, Instance: newInstance(), Boot: d.boot, Epoch: epoch}
	if r.Cgroup, err = newCgroup(d.spec.Name + "-" + r.Instance[:12]); err != nil {
		d.log.Info("no cgroup of its own, using the process group", "reason", err)
	}
	if err := d.write(r); err != nil {
		return errors.Join(err, d.forget(r))
	}
	cmd, err := d.command(r)
	if err != nil {
		return errors.Join(err, d.forget(r))
	}
	cmd.Stdout, cmd.Stderr = out, out
	if err := startIn(cmd, &r.Cgroup); err != nil {
		return errors.Join(err, d.forget(r))
	}
	main := proc{PID: cmd.Process.Pid}
	st, err := readStat(main.PID)
	if err != nil { // not reaped yet, so it must be there
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return errors.Join(err, d.forget(r))
	}
	main.Start, r.PID, r.Start = st.Start, st.PID, st.Start
	unprotect(main.PID)
	go d.reap(cmd, main) // ends with the child, which may outlive this object: nothing could join it
	if err := d.write(r); err != nil {
		ctx, cancel := bound(context.Background(), d.spec.StopBudget, defaultStopBudget)
		defer cancel()
		return errors.Join(err, d.killAll(ctx, r), d.forget(r))
	}
	d.log.Info("process started", "pid", r.PID, "epoch", epoch, "cgroup", r.Cgroup)
	return nil
}

// reap takes the exit status of a child and keeps how it ended for Status.
func (d *process) reap(cmd *exec.Cmd, main proc) {
	_ = cmd.Wait() // ECHILD when reapChild was faster
	how := ""
	if cmd.ProcessState != nil {
		how = describe(cmd.ProcessState)
	}
	d.mu.Lock()
	clear(d.exits)
	d.exits[main] = how
	d.mu.Unlock()
}

// forget removes what launch made before there was a process.
func (d *process) forget(r record) error {
	var err error
	if r.Cgroup != "" {
		err = removeCgroup(r.Cgroup)
	}
	return errors.Join(err, removeFile(d.file(".pid")), removeFile(d.file(".pid.new")))
}

func removeFile(name string) error {
	if err := os.Remove(name); err != nil && !os.IsNotExist(err) {
		return err
	}
	return nil
}

// startIn forks straight into the cgroup (clone3, Linux 5.7). Where the kernel or a container's filter refuses that, the
// process is started without one and dir is emptied, so that nothing is later looked for in the wrong place.
func startIn(cmd *exec.Cmd, dir *string) error {
	if *dir == "" {
		return urgency.Ordinary(cmd.Start)
	}
	fd, err := unix.Open(*dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening cgroup %s: %w", *dir, err)
	}
	defer unix.Close(fd)
	cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, fd
	err = urgency.Ordinary(cmd.Start)
	refused := slices.ContainsFunc([]error{unix.ENOSYS, unix.EINVAL, unix.EPERM, unix.EOPNOTSUPP, unix.EBUSY},
		func(e error) bool { return errors.Is(err, e) })
	if !refused {
		return err
	}
	_ = removeCgroup(*dir) // an empty cgroup that stays does no harm
	*dir = ""
	again := exec.Command(cmd.Path)
	again.Args, again.Env, again.Dir, again.Stdout, again.Stderr = cmd.Args, cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr
	attr := *cmd.SysProcAttr
	attr.UseCgroupFD = false
	again.SysProcAttr = &attr
	if e := urgency.Ordinary(again.Start); e != nil {
		return e
	}
	*cmd = *again
	return nil
}

// command builds the program's call: its own session, the wanted user, a minimal environment. No Pdeathsig: the program
// must survive the agent.
func (d *process) command(r record) (*exec.Cmd, error) {
	path, err := lookPath(d.spec.Command[0])
	if err != nil {
		return nil, err
	}
	cmd := &exec.Cmd{Path: path, Args: d.spec.Command, Dir: d.spec.Dir, SysProcAttr: &syscall.SysProcAttr{Setsid: true}}
	if cmd.Dir == "" {
		cmd.Dir = "/"
	}
	login := []string{"HOME=/", "USER=" + strconv.Itoa(os.Getuid())}
	if d.spec.User != "" {
		if cmd.SysProcAttr.Credential, login, err = credential(d.spec.User); err != nil {
			return nil, err
		}
	} else if u, err := user.Current(); err == nil {
		login = loginEnv(u)
	}
	cmd.Env = append(environment(d.spec, r.Epoch, login), instanceVar+"="+r.Instance)
	return cmd, nil
}

const minimalPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// environment is all that a resource sees: nothing of the agent's own environment.
func environment(s Spec, epoch uint64, login []string) []string {
	env := append([]string{"PATH=" + minimalPath, "LANG=C.UTF-8"}, login...)
	for k, v := range s.Env {
		env = append(env, k+"="+v)
	}
	slices.Sort(env[2+len(login):])
	return append(env, "HAD_GROUP="+s.Group, "HAD_RESOURCE="+s.Name, "HAD_EPOCH="+strconv.FormatUint(epoch, 10))
}

// lookPath finds a program in the PATH that the resource will have, not in the agent's.
func lookPath(name string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for _, dir := range filepath.SplitList(minimalPath) {
		p := filepath.Join(dir, name)
		if st, err := os.Stat(p); err == nil && !st.IsDir() && st.Mode()&0o111 != 0 {
			return p, nil
		}
	}
	return "", fmt.Errorf("program %q is not in %s", name, minimalPath)
}

func loginEnv(u *user.User) []string {
	return []string{"HOME=" + u.HomeDir, "USER=" + u.Username, "LOGNAME=" + u.Username}
}

// credential resolves a user name or number to ids, its groups, and login variables.
func credential(name string) (*syscall.Credential, []string, error) {
	u, err := user.Lookup(name)
	if err != nil {
		if _, e := strconv.ParseUint(name, 10, 32); e != nil {
			return nil, nil, fmt.Errorf("looking up user: %w", err)
		}
		if u, err = user.LookupId(name); err != nil {
			return nil, nil, fmt.Errorf("looking up user: %w", err)
		}
	}
	ids, err := u.GroupIds()
	if err != nil {
		return nil, nil, fmt.Errorf("looking up groups of user %s: %w", name, err)
	}
	nums := make([]uint32, 0, len(ids)+2)
	for _, id := range append([]string{u.Uid, u.Gid}, ids...) {
		n, err := strconv.ParseUint(id, 10, 32)
		if err != nil {
			return nil, nil, fmt.Errorf("looking up user %s: id %q: %w", name, id, err)
		}
		nums = append(nums, uint32(n))
	}
	return &syscall.Credential{Uid: nums[0], Gid: nums[1], Groups: nums[2:]}, loginEnv(u), nil
}

// unprotect undoes the out-of-memory protection a child inherits from the agent: a resource that eats the memory must be
// the one that pays. Best effort: without it the child is merely as protected as the agent.
func unprotect(pid int) {
	b, err := os.ReadFile("/proc/self/oom_score_adj")
	if err == nil && strings.HasPrefix(string(b), "-") {
		_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte("0"), 0)
	}
}
