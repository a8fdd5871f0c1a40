# Becomes process 1 of a lab node: called by unshare(1) in new pid, mount, uts and ipc namespaces, and once more, as the
# second step, in a new cgroup namespace whose root is the node's own group.
set -eu
step=$1 cg=$2 base=$3 os=$4 name=$5
if [ "$step" = 1 ]; then
	# The waiting parent must not be in the group that systemd takes for the root: it could not be moved from there.
	echo 0 > "$cg/cgroup.procs"
	exec unshare --cgroup /bin/sh "$0" 2 "$cg" "$base" "$os" "$name"
fi
root=$os/root
mount --make-rprivate /
mount -t overlay overlay -o "lowerdir=$base,upperdir=$os/upper,workdir=$os/work" "$root"
cd "$root"
mount -t proc -o nosuid,nodev,noexec proc proc
mount -t sysfs -o nosuid,nodev,noexec,ro sysfs sys
mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/shm dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
ln -s fd/0 dev/stdin
ln -s fd/1 dev/stdout
ln -s fd/2 dev/stderr
mknod -m 666 dev/null c 1 3
mknod -m 666 dev/zero c 1 5
mknod -m 666 dev/full c 1 7
mknod -m 666 dev/random c 1 8
mknod -m 666 dev/urandom c 1 9
mknod -m 666 dev/tty c 5 0
mknod -m 600 dev/console c 1 3
# The kernel's settings belong to the machine, those of the network to the node.
mount --bind proc/sys proc/sys
mount --bind proc/sys/net proc/sys/net
mount -o remount,bind,ro proc/sys
hostname "$name" 2>/dev/null || echo "$name" > /proc/sys/kernel/hostname
pivot_root . mnt
cd /
umount -l /mnt
exec env -i container=lab PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin TERM=dumb /lib/systemd/systemd </dev/null
