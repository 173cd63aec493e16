#!/bin/busybox sh
# The demo guest's only program: mounts, starts the agent, says GUEST-READY on the serial line, keeps a shell there.
/bin/busybox --install -s /bin
export PATH=/bin:/sbin HOME=/
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts
mount -t devpts pts /dev/pts
cd /lib/modules || exit 1
for module in $(cat order); do
  [ ! -e "$module.ko" ] || insmod "$module.ko" || echo "GUEST: the module $module was not loaded"
done
cd /

# Waits up to ten seconds for something to come true.
await() {
  tries=0
  while ! eval "$1" && [ $tries -lt 200 ]; do sleep 0.05; tries=$((tries + 1)); done
}

await '[ -b /dev/vda2 ]'
mount -t ext4 /dev/vda2 /data || echo "GUEST: there is no data file system"
ln -s /proc/mounts /etc/mtab
boots=$(($(cat /data/boots 2>/dev/null || echo 0) + 1))
echo $boots > /data/boots
sync

ip link set lo up
if ip link set eth0 up 2>/dev/null; then
  ip addr add 10.0.2.15/24 dev eth0
  ip route add default via 10.0.2.2
fi

# What a cloud image does through cloud-init, as far as tests look: a script given as user data is run.
for device in /dev/vd[b-z]; do
  [ -b "$device" ] && mount -t vfat -o ro "$device" /seed 2>/dev/null || continue
  echo "GUEST-SEED $(sed -n 's/^instance-id: *//p' /seed/meta-data)"
  if head -n 1 /seed/user-data | grep -q '^#!'; then sh /seed/user-data; fi
  umount /seed
done

# The power button: an input event of type EV_KEY, code KEY_POWER, value 1. Whichever device it comes from.
for device in /dev/input/event*; do
  [ -e "$device" ] || continue
  (while :; do
    event=$(dd if="$device" bs=24 count=1 2>/dev/null | hexdump -v -e '24/1 "%02x"' | cut -c 33-48)
    case "$event" in 0100740001000000) /sbin/shutdown -P +0 ;; '') exit ;; esac
  done) &
done

port=
find_port() {
  for one in /sys/class/virtio-ports/vport*; do
    if [ "$(cat "$one/name" 2>/dev/null)" = org.qemu.guest_agent.0 ]; then port=/dev/$(basename "$one"); return 0; fi
  done
  return 1
}
[ ! -e /sys/bus/virtio/drivers/virtio_console ] || await find_port
if [ -n "$port" ]; then
  mkdir -p /dev/virtio-ports
  ln -sf "$port" /dev/virtio-ports/org.qemu.guest_agent.0
  qemu-ga -d -m virtio-serial -p /dev/virtio-ports/org.qemu.guest_agent.0 -t /run -l /var/log/agent.log
fi
echo "GUEST-READY boots=$boots up=$(cut -d' ' -f1 /proc/uptime)"
while :; do
  setsid cttyhack sh < /dev/ttyS0 > /dev/ttyS0 2>&1
  sleep 1
done
