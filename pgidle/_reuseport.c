/*
 * Preloaded into the postmaster (LD_PRELOAD) and into nothing else.
 *
 * Postgres does not set SO_REUSEPORT, so it could not bind the address that the gate already holds.
 * This sets it before bind() on IPv4 and IPv6 stream sockets, gives the supervisor a copy of each such
 * socket (so that who waits in its queue outlives a postmaster that is killed), and ties the postmaster's
 * life to the supervisor's. Not a Python module: it includes no Python header and is never imported.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

/* The supervisor's, for copies of sockets; -1 where nobody wants any, and once all are bound. */
static int channel = -1;

/* What it forks (a background worker that listens on a port of its own) has this library too, and no use for it. */
static pid_t postmaster;

typedef int bind_function(int, const struct sockaddr *, socklen_t);

__attribute__((constructor)) static void begin(void)
{
	const char *supervisor = getenv("PGIDLE_SUPERVISOR");
	const char *others = getenv("PGIDLE_LD_PRELOAD");
	const char *given = getenv("PGIDLE_CHANNEL");
	const char *self = getenv("PGIDLE_SHIM");

	postmaster = getpid();

	/* PDEATHSIG outlives exec but no fork: backends do not get it. SIGINT is Postgres's fast shutdown. */
	if (supervisor != NULL && (prctl(PR_SET_PDEATHSIG, SIGINT) != 0 || getppid() != atoi(supervisor)))
		_exit(1); /* the supervisor died before it could be noticed */

	if (given != NULL)
		(void)fcntl(channel = atoi(given), F_SETFD, FD_CLOEXEC);

	if (self != NULL)
		(void)close(atoi(self)); /* this file: it is loaded */

	/* What Postgres starts (archive_command, COPY PROGRAM) must not inherit any of this. */
	if (others != NULL && *others != '\0')
		setenv("LD_PRELOAD", others, 1);
	else
		unsetenv("LD_PRELOAD");
	unsetenv("PGIDLE_LD_PRELOAD");
	unsetenv("PGIDLE_SUPERVISOR");
	unsetenv("PGIDLE_CHANNEL");
	unsetenv("PGIDLE_SHIM");
}

static void give_copy(int fd)
{
	char byte = 0;
	struct iovec content = {&byte, 1};
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof fd)];
	} rights = {{0}};
	struct msghdr message = {.msg_iov = &content, .msg_iovlen = 1, .msg_control = &rights,
				 .msg_controllen = sizeof rights};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);

	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof fd);
	memcpy(CMSG_DATA(header), &fd, sizeof fd);
	(void)sendmsg(channel, &message, MSG_DONTWAIT | MSG_NOSIGNAL); /* without it nothing else changes */
}

__attribute__((visibility("default"))) int bind(int fd, const struct sockaddr *address, socklen_t length)
{
	static bind_function *next;
	int type = 0, on = 1;
	socklen_t size = sizeof type;

	if (next == NULL)
		*(void **)&next = dlsym(RTLD_NEXT, "bind"); /* POSIX's way around ISO C's function pointers */
	if (getpid() != postmaster)
		return next(fd, address, length);
	if (address != NULL && (address->sa_family == AF_INET || address->sa_family == AF_INET6) &&
	    getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0 && type == SOCK_STREAM) {
		(void)setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on); /* bind says if it was needed */
		if (next(fd, address, length) != 0)
			return -1;
		if (channel >= 0)
			give_copy(fd);
		return 0;
	}
	/* Postgres binds its Unix sockets last (ListenServerPort in pqcomm.c): no backend is to inherit the channel. */
	if (address != NULL && address->sa_family == AF_UNIX && channel >= 0) {
		(void)close(channel);
		channel = -1;
	}
	return next(fd, address, length);
}
