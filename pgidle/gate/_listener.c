/*
 * Preloaded into the postmaster (LD_PRELOAD), so that it shares its listening sockets with the supervisor and
 * accepts only while the gate is open.
 *
 * There is one listening socket for each address, the supervisor's, and it stays from first to last. Postgres makes
 * sockets of its own, binds them, listens and waits for clients; this stands before the C library's functions with
 * which it does so, and changes what they do to those sockets:
 *
 * bind, listen   An address that the supervisor holds is not bound again: its listener takes the place of Postgres's
 *                new socket. A Unix socket that it does not hold yet is Postgres's to make, and the supervisor is
 *                given it.
 * open           A lock file beside a Unix socket that is no plain file cannot be read: in a folder that is anybody's a
 *                pipe in its place would hold the start up for ever.
 * unlink         The file of a held Unix socket stays. So does the lock file beside it, once both are Postgres's: the
 *                supervisor writes its own name into it. A lock that is there at a start Postgres removes itself, and
 *                so it does with its own where one folder is named twice.
 * chmod, chown   Of the file of a held Unix socket that is another user's do nothing, and succeed.
 * select         Up to 15 the postmaster waits with this. Listeners are taken out of the set while the gate is shut,
 *                and the supervisor's orders are waited for, too.
 * epoll_ctl,     From 16 on. A listener's registration is remembered, and made only while the gate is open. A wait
 * epoll_wait     that ends with nothing but an order fails with EINTR: Postgres waits again. It makes a set anew when it
 *                has begun to end: that has no listeners, and so no channel, and nothing is ordered there.
 * accept         Fails while the gate is shut. Only a stop or a crash that Postgres notices in the same round in which
 *                somebody came gets there.
 * kill           A child that is told to end is the first sign of a crash: the gate shuts at once. The end of a single
 *                background worker looks the same; the supervisor tells them apart by whom it is, and opens again.
 * sigaction      So that a signal that stops the postmaster shuts the gate before Postgres has even looked at it: a
 *                smart shutdown kills nobody, and refuses newcomers for as long as the longest session lasts.
 *
 * The channel is a SOCK_SEQPACKET pair of records, all of them four int32, a kind and three numbers: `enum kind`
 * below, and gate/channel.py at the other end. Orders are carried out between two waits and answered by STATE.
 * An order to open says how many alarms (CHILD, STOP) the supervisor has heard of, and is void if there was another
 * since: the gate never opens on a Postgres that has begun to end. What the channel has no room for is told later, and
 * until then there is no other answer. A supervisor that is gone leaves the gate shut.
 *
 * Who waits where the supervisor lets nobody come any more (it has shut the socket down) is accepted before anybody else:
 * by the listener at the same address, and where Postgres has none, by any.
 *
 * All this is for the postmaster alone, which is known by what its program exports: a script in its place has the
 * library too, and hands it on. What the postmaster forks has the library too, where pthread_atfork() switches it off; what
 * it executes (archive_command, COPY PROGRAM) has neither it, nor a descriptor of ours, nor the variables. A future
 * version's wait by another function is never told as WAITS, by which the supervisor knows that its orders mean
 * nothing. No heap, no Python header: it is built like a module of Python's and never imported.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
/* The function that ours of the same name stands before: looked up when it is first called, which may be by another
 * library's constructor. */
#define NEXT(function)                                                                                                 \
	({                                                                                                             \
		static void *found;                                                                                    \
		if (found == NULL)                                                                                     \
			found = dlsym(RTLD_NEXT, #function);                                                           \
		(__typeof__(&(function)))found;                                                                        \
	})
#define EACH(one) (struct listener *one = listeners; one < listeners + count; one++)

enum {
	VERSION = 1,	/* of the records */
	WIDE = 65535,	/* a backlog that leaves the limit to net.core.somaxconn */
	MOST = 64,	/* listeners: Postgres's own MAXLISTEN */
	TOLD_PEERS = 8, /* Unix clients that are named after each opening */
	AGAIN = 20,	/* milliseconds until what could not be told is tried again */
	ANY = -2,	/* in place of a descriptor */
};

enum kind {
	OPEN = 'O',  /* The supervisor's: number of the order, alarms that it knows of. */
	SHUT = 'C',  /* Number of the order. */
	HELLO = 'H', /* Ours, first of all: version, listeners that were inherited. */
	UNIX = 'U',  /* With the descriptor of a Unix socket that Postgres has made. */
	WAITS = 'W', /* Once, before the first wait: for so many listeners; bits of those inherited that are not among them. */
	STATE = 'S', /* The order that this answers, 1 if the gate is open now, alarms. */
	CHILD = 'K', /* An alarm: signal, the child that it is for, alarms. */
	STOP = 'T',  /* An alarm: signal, who sent it to the postmaster, alarms. */
	PEER = 'P',  /* Pid and uid of a client that was accepted at a Unix socket. */
	LOCK = 'L',  /* Postgres is done with the lock file of a Unix socket, and has left it. */
};

static struct listener {
	int given; /* the supervisor's descriptor, until Postgres binds the address */
	int fd;	   /* Postgres's, from then on */
	int after; /* Postgres's of another, whose accept() takes from this one first; or ANY */
	bool is_untold; /* made by Postgres, and the supervisor has not got it yet */
	bool is_watched; /* by Postgres's epoll, as far as Postgres knows */
	bool is_lock_left; /* once: Postgres tries again to remove what it takes for an earlier server's */
	struct epoll_event event;
	socklen_t length;
	union {
		struct sockaddr any;
		struct sockaddr_un un;
		struct sockaddr_storage room;
	} at;
} listeners[MOST];
static int count, inherited;
static int channel = -1;
static pid_t supervisor;
static pid_t postmaster;  /* 0 in what it forks */
static atomic_bool is_open;
static atomic_int alarms;
static int epoll = -1;	  /* Postgres's, in which a listener is */
static bool is_registered; /* whether the kernel watches the listeners there */
static bool has_waited;
static int told_peers;
static int unanswered; /* order, or 0 */
static struct alarm { /* that could not be told */
	enum kind kind;
	atomic_bool is_due;
	int number;
	pid_t pid;
} stop = {.kind = STOP}, child = {.kind = CHILD};

static bool is_postmaster(void)
{
	return postmaster != 0 && getpid() == postmaster;
}

static struct listener *find(int fd)
{
	for EACH (one)
		if (one->fd == fd && is_postmaster())
			return one;
	return NULL;
}

/* Whether it is on its way; never waits. May be called by a signal handler. */
static bool tell(enum kind kind, int a, int b, int c, int fd)
{
	int32_t record[4] = {kind, a, b, c};
	struct iovec content = {record, sizeof record};
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(sizeof fd)];
	} rights = {{.cmsg_len = CMSG_LEN(sizeof fd), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS}};
	struct msghdr message = {.msg_iov = &content, .msg_iovlen = 1};
	int before = errno;
	bool is_told;

	if (fd >= 0) {
		memcpy(CMSG_DATA(&rights.header), &fd, sizeof fd);
		message.msg_control = &rights;
		message.msg_controllen = sizeof rights;
	}
	is_told = sendmsg(channel, &message, MSG_DONTWAIT | MSG_NOSIGNAL) == sizeof record;
	errno = before;
	return is_told;
}

static bool tell_alarm(struct alarm *one)
{
	if (!atomic_exchange(&one->is_due, false) || tell(one->kind, one->number, (int)one->pid, alarms, -1))
		return true;
	one->is_due = true;
	return false;
}

/* Tell what is due, alarms before answers: whether nothing is left. */
static bool catch_up(void)
{
	bool is_done = true;

	if (channel < 0)
		return true;
	for EACH (one)
		if (one->is_untold) {
			one->is_untold = !tell(UNIX, 0, 0, 0, one->fd);
			is_done &= !one->is_untold;
		}
	if (!tell_alarm(&stop) || !tell_alarm(&child))
		return false;
	if (unanswered != 0 && tell(STATE, unanswered, is_open, alarms, -1))
		unanswered = 0;
	return is_done && unanswered == 0;
}

/* Whether the supervisor has ended a listener: nobody can come to it any more, and it takes no other's place. */
static bool is_ended(int fd)
{
	struct pollfd one = {.fd = fd, .events = POLLRDHUP};

	return poll(&one, 1, 0) == 1 && (one.revents & POLLRDHUP) != 0;
}

/* The last component of a path, and the folder that the others lead to; NULL if there is none. */
static const char *look_up(const char *path, struct stat *folder)
{
	const char *slash = strrchr(path, '/');
	char above[sizeof(struct sockaddr_un)] = ".";

	if (slash == NULL)
		return stat(above, folder) == 0 ? path : NULL;
	if ((size_t)(slash - path) + 1 >= sizeof above)
		return NULL;
	memcpy(above, path, (size_t)(slash - path) + 1);
	return stat(above, folder) == 0 ? slash + 1 : NULL;
}

/* Whether a path names a listener's, which may be written differently, with this added to it. */
static bool names(const char *path, const struct listener *one, const char *added)
{
	struct stat folders[2];
	char held[sizeof one->at + sizeof ".lock"] = "";
	const char *name, *ours, *end = strrchr(path, '/');

	if (one->at.any.sa_family != AF_UNIX || one->at.un.sun_path[0] == '\0')
		return false;
	memcpy(held, one->at.un.sun_path, one->length - offsetof(struct sockaddr_un, sun_path));
	ours = strrchr(strcat(held, added), '/');
	if (strcmp(ours == NULL ? held : ours + 1, end == NULL ? path : end + 1) != 0)
		return false; /* as for each temporary file */
	name = look_up(path, &folders[0]);
	ours = look_up(held, &folders[1]);
	return name != NULL && ours != NULL && folders[0].st_dev == folders[1].st_dev &&
	       folders[0].st_ino == folders[1].st_ino;
}

static bool is_at(const struct listener *one, const struct sockaddr *address, socklen_t length)
{
	char path[sizeof one->at + 1] = "";

	if (length == one->length && memcmp(&one->at, address, length) == 0)
		return true; /* an abstract name too: by its bytes */
	if (address->sa_family != AF_UNIX || length > sizeof one->at)
		return false;
	memcpy(path, ((const struct sockaddr_un *)(const void *)address)->sun_path,
	       length - offsetof(struct sockaddr_un, sun_path));
	return path[0] != '\0' && names(path, one, "");
}

EXPORT int bind(int fd, const struct sockaddr *address, socklen_t length)
{
	struct listener *former = find(fd);
	int type = 0, taken = -1;
	socklen_t size = sizeof type;

	if (former != NULL) /* closed, or it could not be bound again */
		former->fd = -1, former->is_watched = false;
	(void)getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size);
	for EACH (one) {
		if (one->given < 0 || type != SOCK_STREAM || !is_postmaster() || !is_at(one, address, length))
			continue;
		if (taken >= 0 || (one->at.any.sa_family == AF_UNIX && is_ended(one->given))) {
			one->after = fd;
			continue;
		}
		if ((taken = dup3(one->given, fd, O_CLOEXEC)) < 0)
			return -1;
		(void)close(one->given);
		one->given = -1;
		one->fd = fd;
	}
	return taken >= 0 ? 0 : NEXT(bind)(fd, address, length);
}

EXPORT int listen(int fd, int backlog)
{
	struct listener *one = find(fd), made = {.given = -1, .fd = fd, .after = -1, .length = sizeof made.at};
	int is_unix = 0;

	if (one != NULL) /* it does, as the supervisor and so as Postgres's user, whom its clients are told of */
		return 0;
	if (is_postmaster() && count < MOST && getsockname(fd, &made.at.any, &made.length) == 0)
		is_unix = made.at.any.sa_family == AF_UNIX && memmem(&made.at, made.length, ".s.PGSQL.", 9) != NULL;
	if (NEXT(listen)(fd, is_unix ? WIDE : backlog) != 0)
		return -1;
	if (is_unix) {
		made.is_untold = true;
		listeners[count++] = made;
		(void)catch_up();
	}
	return 0;
}

/* Whether the supervisor is dying: its first thread has ended, of which we are told by a signal, while the others still
 * hold our channel open. We are another's child then if those are about to end as well (find_new_reaper in
 * kernel/exit.c), else behind the name in brackets proc_pid_stat(5) has the state. */
static bool is_orphan(void)
{
	char path[sizeof "/proc//stat" + 10], line[512] = "", *state;
	int fd;

	if (getppid() != supervisor)
		return true;
	(void)snprintf(path, sizeof path, "/proc/%d/stat", (int)getppid());
	if ((fd = open(path, O_RDONLY | O_CLOEXEC)) < 0)
		return false;
	state = read(fd, line, sizeof line - 1) > 0 ? strrchr(line, ')') : NULL;
	(void)close(fd);
	return state != NULL && strncmp(state, ") Z", 3) == 0;
}

EXPORT int unlink(const char *path)
{
	for EACH (one) {
		if (!is_postmaster())
			continue;
		if (names(path, one, "") && (one->given < 0 || !is_ended(one->given)))
			return 0;
		if (one->fd >= 0 && !one->is_lock_left && names(path, one, ".lock") && !is_orphan() &&
		    tell(LOCK, 0, 0, 0, -1)) {
			one->is_lock_left = true;
			return 0;
		}
	}
	return NEXT(unlink)(path);
}

/* By its name in the assembler, for the C library has an inline function of the same. */
EXPORT int open_file(const char *path, int flags, ...) __asm__("open");

int open_file(const char *path, int flags, ...)
{
	size_t length = strlen(path), end = strlen(".lock");
	bool is_lock = is_postmaster() && (flags & (O_ACCMODE | O_CREAT)) == O_RDONLY && length > end &&
		       strcmp(path + length - end, ".lock") == 0 && strstr(path, ".s.PGSQL.") != NULL;
	struct stat file;
	mode_t mode = 0;
	va_list more;
	int fd;

	if ((flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE) {
		va_start(more, flags);
		mode = va_arg(more, mode_t);
		va_end(more);
	}
	fd = NEXT(open)(path, is_lock ? flags | O_NONBLOCK | O_NOCTTY : flags, mode);
	if (fd < 0 || !is_lock || (fstat(fd, &file) == 0 && S_ISREG(file.st_mode)))
		return fd;
	(void)close(fd);
	errno = EPERM;
	return -1;
}

/* Have the kernel watch the listeners, or not. What fails is tried again before the next wait. */
static void watch(void)
{
	bool is_wished = is_open;

	if (is_registered == is_wished)
		return;
	for EACH (one)
		if (one->is_watched &&
		    NEXT(epoll_ctl)(epoll, is_wished ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, one->fd, &one->event) != 0 &&
		    errno != EEXIST && errno != ENOENT)
			return;
	is_registered = is_wished;
}

/* For these, or those that are in the epoll: whether all is told, so that the wait may be as long as it is to be. */
static bool begin_to_wait(const fd_set *reading, int most)
{
	int waited_for = 0;
	uint32_t left_out[MOST / 32] = {0, 0};

	if (has_waited)
		return catch_up();
	for EACH (one)
		if (reading == NULL ? one->is_watched : one->fd >= 0 && one->fd < most && FD_ISSET(one->fd, reading))
			waited_for++;
		else if (one < listeners + inherited) {
			left_out[(one - listeners) / 32] |= 1U << ((one - listeners) % 32);
			if (one->after == -1 && one->at.any.sa_family == AF_UNIX)
				one->after = ANY;
		}
	has_waited = tell(WAITS, waited_for, (int)left_out[0], (int)left_out[1], -1);
	return catch_up() && (has_waited || channel < 0);
}

/* Carry out what the supervisor has ordered, between two waits. */
static void obey(void)
{
	int32_t order[4];
	ssize_t got;

	while ((got = recv(channel, order, sizeof order, MSG_DONTWAIT)) == sizeof order) {
		/* An alarm that is still due is one that the supervisor cannot have heard of. */
		if (order[0] == OPEN && !is_open && order[2] == alarms && !stop.is_due && !child.is_due) {
			told_peers = 0;
			is_open = true;
			watch();
			if (order[2] != alarms || (epoll >= 0 && !is_registered))
				is_open = false; /* a signal came between, or the kernel is out of memory */
		} else if (order[0] == SHUT)
			is_open = false;
		unanswered = order[1];
		(void)catch_up();
	}
	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	is_open = false;
	if (epoll >= 0)
		(void)NEXT(epoll_ctl)(epoll, EPOLL_CTL_DEL, channel, NULL);
	(void)close(channel);
	channel = -1;
}

/* How many of the listeners in a set were there, and are no longer, because the gate is shut. */
static int drop(int most, fd_set *set)
{
	int dropped = 0;

	for EACH (one)
		if (!is_open && one->fd >= 0 && one->fd < most && FD_ISSET(one->fd, set)) {
			FD_CLR(one->fd, set);
			dropped++;
		}
	return dropped;
}

EXPORT int select(int most, fd_set *reading, fd_set *writing, fd_set *excepted, struct timeval *timeout)
{
	struct timeval soon = {.tv_usec = AGAIN * 1000};
	bool is_for_clients = false;
	int found;

	for EACH (one)
		if (reading != NULL && one->fd >= 0 && one->fd < most && FD_ISSET(one->fd, reading))
			is_for_clients = is_postmaster();
	if (!is_for_clients)
		return NEXT(select)(most, reading, writing, excepted, timeout);
	if (!begin_to_wait(reading, most))
		timeout = &soon;
	(void)drop(most, reading);
	if (channel >= 0)
		FD_SET(channel, reading);
	found = NEXT(select)(most > channel ? most : channel + 1, reading, writing, excepted, timeout);
	if (found <= 0)
		return found;
	if (channel >= 0 && FD_ISSET(channel, reading)) {
		FD_CLR(channel, reading);
		found--;
		obey();
	}
	found -= drop(most, reading);
	errno = EINTR;
	return found > 0 ? found : -1;
}

EXPORT int epoll_ctl(int set, int what, int fd, struct epoll_event *event)
{
	struct listener *one = find(fd);
	struct epoll_event orders = {.events = EPOLLIN, .data.ptr = &channel};

	if (one == NULL)
		return NEXT(epoll_ctl)(set, what, fd, event);
	(void)NEXT(epoll_ctl)(set, EPOLL_CTL_DEL, fd, event);
	if (channel >= 0 && NEXT(epoll_ctl)(set, EPOLL_CTL_ADD, channel, &orders) != 0 && errno != EEXIST)
		return -1;
	epoll = set;
	is_registered = false;
	one->is_watched = what != EPOLL_CTL_DEL;
	one->event = *event;
	return 0;
}

EXPORT int epoll_wait(int set, struct epoll_event *events, int most, int timeout)
{
	int found, kept = 0;

	if (set != epoll || !is_postmaster())
		return NEXT(epoll_wait)(set, events, most, timeout);
	if (!begin_to_wait(NULL, 0))
		timeout = AGAIN;
	watch();
	found = NEXT(epoll_wait)(set, events, most, timeout);
	for (int i = 0; i < found; i++)
		if (events[i].data.ptr == &channel)
			obey();
	for (int i = 0; i < found; i++) {
		bool is_kept = events[i].data.ptr != &channel;

		for EACH (one)
			is_kept &= is_open || !one->is_watched || one->event.data.u64 != events[i].data.u64;
		if (is_kept)
			events[kept++] = events[i];
	}
	if (found <= 0 || kept > 0)
		return found <= 0 ? found : kept;
	errno = EINTR;
	return -1;
}

EXPORT int accept4(int fd, struct sockaddr *restrict address, socklen_t *restrict length, int flags)
{
	struct listener *one = find(fd);
	struct ucred peer;
	socklen_t size = sizeof peer;
	int taken = -1, none = 0;

	errno = EAGAIN;
	if (one != NULL && !is_open)
		return -1;
	for EACH (earlier)
		if (one != NULL && taken < 0 &&
		    (earlier->after == fd || (earlier->after == ANY && is_ended(earlier->given))))
			taken = NEXT(accept4)(earlier->given, address, length, flags);
	if (taken < 0)
		taken = NEXT(accept4)(fd, address, length, flags);
	if (taken < 0 || one == NULL)
		return taken;
	if (one->at.any.sa_family == AF_UNIX) {
		if (told_peers < TOLD_PEERS && getsockopt(taken, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0)
			told_peers += tell(PEER, (int)peer.pid, (int)peer.uid, 0, -1);
		return taken;
	}
	/* Born while the supervisor was about to leave, it hears nobody yet: `plug` in gate/listeners.py. */
	(void)setsockopt(taken, IPPROTO_IP, IP_MINTTL, &none, sizeof none);
	if (one->at.any.sa_family == AF_INET6)
		(void)setsockopt(taken, IPPROTO_IPV6, IPV6_MINHOPCOUNT, &none, sizeof none);
	return taken;
}

EXPORT int accept(int fd, struct sockaddr *restrict address, socklen_t *restrict length)
{
	return accept4(fd, address, length, 0);
}

/* Postgres goes without a Unix socket whose rights it cannot set. Where another user has made the file, they are for
 * that user to set, who had reasons: a service manager's SocketMode= and SocketGroup=. */
static int leave_to_owner(const char *path, int result)
{
	int why = errno;
	struct stat file;

	if (result == 0 || why != EPERM || !is_postmaster())
		return result;
	for EACH (one)
		if (names(path, one, "") && lstat(path, &file) == 0 && file.st_uid != geteuid())
			return 0;
	errno = why;
	return result;
}

EXPORT int chmod(const char *path, mode_t mode)
{
	return leave_to_owner(path, NEXT(chmod)(path, mode));
}

EXPORT int chown(const char *path, uid_t user, gid_t group)
{
	return leave_to_owner(path, NEXT(chown)(path, user, group));
}

static void raise_alarm(struct alarm *alarm, int number, pid_t pid)
{
	is_open = false;
	alarms++;
	/* The end of one worker must not hide a crash. */
	if (tell(alarm->kind, number, (int)pid, alarms, -1) || (alarm->is_due && number == SIGTERM))
		return;
	alarm->number = number;
	alarm->pid = pid;
	alarm->is_due = true;
}

EXPORT int kill(pid_t pid, int number)
{
	bool ends = number == SIGQUIT || number == SIGABRT || number == SIGTERM || number == SIGKILL;

	if (ends && pid > 0 && pid != postmaster && is_postmaster())
		raise_alarm(&child, number, pid);
	return NEXT(kill)(pid, number);
}

static struct sigaction handlers[SIGTERM + 1]; /* Postgres's */

static void on_stop(int number, siginfo_t *info, void *context)
{
	if (is_postmaster())
		raise_alarm(&stop, number, info->si_pid);
	if (handlers[number].sa_flags & SA_SIGINFO)
		handlers[number].sa_sigaction(number, info, context);
	else
		handlers[number].sa_handler(number);
}

EXPORT int sigaction(int number, const struct sigaction *restrict wanted, struct sigaction *restrict before)
{
	struct sigaction known, ours;

	if (number != SIGTERM && number != SIGINT && number != SIGQUIT)
		return NEXT(sigaction)(number, wanted, before);
	known = handlers[number];
	if (wanted != NULL && is_postmaster() && wanted->sa_handler != SIG_DFL && wanted->sa_handler != SIG_IGN) {
		handlers[number] = ours = *wanted;
		ours.sa_sigaction = on_stop;
		ours.sa_flags |= SA_SIGINFO;
		wanted = &ours;
	}
	if (NEXT(sigaction)(number, wanted, before) != 0)
		return -1;
	if (before != NULL && before->sa_sigaction == on_stop)
		*before = known;
	return 0;
}

/* In what the postmaster forks. Listeners that it has bound Postgres closes there itself. */
static void retire(void)
{
	postmaster = 0;
	(void)close(channel);
	for EACH (one)
		if (one->given >= 0)
			(void)close(one->given);
}

__attribute__((constructor)) static void begin(void)
{
	const char *named = getenv("PGIDLE_SUPERVISOR");
	const char *others = getenv("PGIDLE_LD_PRELOAD");
	const char *self = getenv("PGIDLE_SHIM");
	const char *orders = getenv("PGIDLE_CHANNEL");
	char *given = getenv("PGIDLE_LISTENERS"); /* 5,6,7 */

	/* Postgres exports what it has, for its extensions. */
	if (dlsym(RTLD_DEFAULT, "PostmasterMain") == NULL)
		return;
	/* PDEATHSIG outlives exec but no fork: backends do not get it. SIGINT is Postgres's fast shutdown. */
	if (named != NULL && (prctl(PR_SET_PDEATHSIG, SIGINT) != 0 || getppid() != atoi(named))) {
		/* The supervisor died before it could be noticed, or has started another program, which waits for this. */
		(void)dprintf(2, "postgres: FATAL:  started by process %d, and not by pgidle (%s): a script in place of "
				 "postgres must exec it\n", (int)getppid(), named);
		_exit(1);
	}
	if (self != NULL)
		(void)close(atoi(self)); /* this file: it is loaded */
	if (orders != NULL && pthread_atfork(NULL, NULL, retire) == 0) {
		/* As low a number as there is: select() takes none above 1023. */
		channel = fcntl(atoi(orders), F_DUPFD_CLOEXEC, 3);
		(void)close(atoi(orders));
		while (given != NULL && *given >= '0' && *given <= '9' && count < MOST) {
			struct listener *one = &listeners[count++];

			*one = (struct listener){.fd = -1, .after = -1, .length = sizeof one->at};
			one->given = (int)strtol(given, &given, 10);
			(void)fcntl(one->given, F_SETFD, FD_CLOEXEC);
			(void)getsockname(one->given, &one->at.any, &one->length);
			given += *given == ',';
		}
		inherited = count;
		supervisor = getppid();
		postmaster = getpid();
		(void)tell(HELLO, VERSION, count, 0, -1);
	}

	/* What Postgres starts (archive_command, COPY PROGRAM) must not inherit any of this. */
	if (others != NULL && *others != '\0')
		setenv("LD_PRELOAD", others, 1);
	else
		unsetenv("LD_PRELOAD");
	unsetenv("PGIDLE_LD_PRELOAD");
	unsetenv("PGIDLE_SUPERVISOR");
	unsetenv("PGIDLE_SHIM");
	unsetenv("PGIDLE_CHANNEL");
	unsetenv("PGIDLE_LISTENERS");
}
