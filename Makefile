# make          builds build/triggerflow-supervisor and build/triggerflow-worker
# make check    installs what the tests need, runs every test
# The rest: make help
.DEFAULT_GOAL := all

VERSION := 0.1.0
# SAN=asan|tsan: sanitizer builds; SAN=crash: named crash points compiled in. Each has a build folder of its own.
SAN ?=
BUILD := build$(if $(SAN),/$(SAN))
WERROR ?=

PACKAGES := gcc make pkg-config libmicrohttpd-dev libyaml-dev libjson-c-dev libcurl4-openssl-dev libhiredis-dev \
            libxxhash-dev libssl-dev
TEST_PACKAGES := libcmocka-dev redis-server redis-tools openssl
LINT_PACKAGES := clang clang-tidy clang-format

CC := gcc
WARNINGS := -Wall -Wextra -Wshadow -Wconversion -Wstrict-prototypes -Wmissing-prototypes -Wcast-qual \
            -Wwrite-strings -Wundef -Wformat=2 -Wvla -Wimplicit-fallthrough
OPTIMISE := -O2 -D_FORTIFY_SOURCE=2
SANITIZE_asan := -O1 -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
SANITIZE_tsan := -O1 -fsanitize=thread
SANITIZE_crash := $(OPTIMISE) -DCRASH_POINTS
FLAGS := $(if $(SAN),$(SANITIZE_$(SAN)),$(OPTIMISE))
CFLAGS += -std=gnu17 -g $(FLAGS) $(WARNINGS) $(if $(WERROR),-Werror) -fno-common -fstack-protector-strong -fPIE \
          -pthread -I. -D_GNU_SOURCE -DVERSION='"$(VERSION)"' -MMD -MP
LDFLAGS += -pie -Wl,-z,relro,-z,now -pthread $(filter -fsanitize%,$(FLAGS))
LDLIBS := -lhiredis -lssl -lcrypto -lyaml -ljson-c -lmicrohttpd -lcurl

objects = $(patsubst %.c,$(BUILD)/%.o,$(1))
COMMON := $(call objects,$(wildcard common/*.c common/storage/*.c))
WORKER := $(call objects,$(filter-out worker/main.c,$(wildcard worker/*.c worker/*/*.c)))
SUPERVISOR := $(call objects,$(filter-out supervisor/main.c,$(wildcard supervisor/*.c)))
SUPPORT := $(call objects,$(wildcard tests/support/*.c))
PROGRAMS := $(BUILD)/triggerflow-supervisor $(BUILD)/triggerflow-worker
TESTS := $(patsubst %.c,$(BUILD)/%,$(wildcard tests/test_*.c tests/integration/test_*.c))
BENCHES := $(patsubst %.c,$(BUILD)/%,$(wildcard bench/*.c))
SOURCES := $(wildcard common/*.[ch] common/*/*.[ch] worker/*.[ch] worker/*/*.[ch] supervisor/*.[ch] tests/*.[ch] \
             tests/*/*.[ch] bench/*.[ch])

.PHONY: all programs tests
all: programs
programs: $(PROGRAMS)
tests: $(TESTS)

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -c $< -o $@
$(BUILD)/libcommon.a: $(COMMON)
$(BUILD)/libworker.a: $(WORKER)
$(BUILD)/libsupervisor.a: $(SUPERVISOR)
$(BUILD)/libsupport.a: $(SUPPORT)
$(BUILD)/%.a:
	@rm -f $@
	$(AR) rcs $@ $^
$(BUILD)/triggerflow-supervisor: $(BUILD)/supervisor/main.o $(BUILD)/libsupervisor.a $(BUILD)/libcommon.a
$(BUILD)/triggerflow-worker: $(BUILD)/worker/main.o $(BUILD)/libworker.a $(BUILD)/libcommon.a
$(TESTS) $(BENCHES): %: %.o $(BUILD)/libsupport.a $(BUILD)/libworker.a $(BUILD)/libsupervisor.a $(BUILD)/libcommon.a
$(TESTS): LDLIBS += -lcmocka
$(PROGRAMS) $(TESTS) $(BENCHES):
	$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)

-include $(shell find build -name '*.d' 2>/dev/null)
