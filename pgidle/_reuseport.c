/*
 * Preloaded into the postmaster (LD_PRELOAD) and into nothing else.
 *
 * Postgres does not set SO_REUSEPORT, so it could not bind the address that the gate already holds.
 * This sets it before bind() on IPv4 and IPv6 stream sockets, and ties the postmaster's life to the
 * supervisor's. Not a Python module: it includes no Python header and is never imported.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

typedef int bind_function(int, const struct sockaddr *, socklen_t);

__attribute__((constructor)) static void begin(void)
{
	const char *supervisor = getenv("PGIDLE_SUPERVISOR");
	const char *others = getenv("PGIDLE_LD_PRELOAD");

	/* PDEATHSIG outlives exec but no fork: backends do not get it. SIGINT is Postgres's fast shutdown. */
	if (supervisor != NULL && (prctl(PR_SET_PDEATHSIG, SIGINT) != 0 || getppid() != atoi(supervisor)))
		_exit(1); /* the supervisor died before it could be noticed */

	/* What Postgres starts (archive_command, COPY PROGRAM) must not inherit any of this. */
	if (others != NULL && *others != '\0')
		setenv("LD_PRELOAD", others, 1);
	else
		unsetenv("LD_PRELOAD");
	unsetenv("PGIDLE_LD_PRELOAD");
	unsetenv("PGIDLE_SUPERVISOR");
}

__attribute__((visibility("default"))) int bind(int fd, const struct sockaddr *address, socklen_t length)
{
	static bind_function *next;
	int type = 0, on = 1;
	socklen_t size = sizeof type;

	if (next == NULL)
		*(void **)&next = dlsym(RTLD_NEXT, "bind"); /* POSIX's way around ISO C's function pointers */
	if (address != NULL && (address->sa_family == AF_INET || address->sa_family == AF_INET6) &&
	    getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0 && type == SOCK_STREAM)
		(void)setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on); /* bind says if it was needed */
	return next(fd, address, length);
}
