#!/bin/sh
# Becomes a systemd with a root of its own: all that is written there is gone with it, but what is written to a folder.
#   unshare --fork --kill-child --pid --mount --ipc --uts --cgroup boot.sh SCRATCH FOLDER PLACE
#   SCRATCH is empty; FOLDER is seen inside as PLACE
set -eu
scratch="$1" folder="$2" place="$3"
mount -t tmpfs tmpfs "$scratch"
mkdir "$scratch/upper" "$scratch/work" "$scratch/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$scratch/upper,workdir=$scratch/work" "$scratch/root"
cd "$scratch/root"
for each in run tmp sys dev; do mount -t tmpfs tmpfs "$each"; done
mount -t proc proc proc
mkdir -p sys/fs/cgroup dev/pts dev/shm dev/mqueue dev/hugepages ".$place" old
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
mount -t cgroup2 none sys/fs/cgroup
for each in null:3 zero:5 full:7 random:8 urandom:9; do mknod -m 666 "dev/${each%:*}" c 1 "${each#*:}"; done
mknod -m 666 dev/tty c 5 0
ln -s /proc/self/fd dev/fd
for each in 0:stdin 1:stdout 2:stderr; do ln -s "fd/${each%%:*}" "dev/${each#*:}"; done
chmod 1777 tmp dev/shm
mount --bind "$folder" ".$place"
pivot_root . old
umount -l /old
# The units alone, and of systemd's own what they need: nothing that sets the kernel, or cleans up.
units=/etc/systemd/system
printf '[Unit]\nDescription=nothing but what is started by hand\nDefaultDependencies=no\n' >"$units/bare.target"
for each in systemd-journald-audit.socket systemd-journald-dev-log.socket systemd-sysctl.service \
  systemd-tmpfiles-setup.service systemd-tmpfiles-setup-dev.service systemd-tmpfiles-clean.timer \
  systemd-modules-load.service systemd-binfmt.service systemd-sysusers.service systemd-remount-fs.service \
  systemd-udevd.service systemd-udev-trigger.service systemd-random-seed.service systemd-update-utmp.service \
  tmp.mount dev-hugepages.mount dev-mqueue.mount sys-kernel-debug.mount sys-kernel-tracing.mount \
  proc-sys-fs-binfmt_misc.automount network-online.target; do
  ln -sf /dev/null "$units/$each"
done
exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin /usr/lib/systemd/systemd --system --unit=bare.target
