# Writes HEADER with the commit that SOURCE is at, for "obatch --version". It runs at each build, so that the
# answer stays true after a commit; the header changes only with the answer. Empty where there is no git, or no
# repository of its own (a tarball).
set(commit "")
if(EXISTS "${SOURCE}/.git")
  execute_process(COMMAND git describe --tags --always --abbrev=10 WORKING_DIRECTORY "${SOURCE}"
    OUTPUT_VARIABLE answer OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE code)
  # Not "describe --dirty", which takes the lock of the index: a build must not get into the way of a commit.
  execute_process(COMMAND git --no-optional-locks status --porcelain --untracked-files=no
    WORKING_DIRECTORY "${SOURCE}" OUTPUT_VARIABLE changes ERROR_QUIET)
  if(code EQUAL 0 AND answer MATCHES "^[A-Za-z0-9._/+-]+$")
    set(commit "${answer}")
    if(changes)
      string(APPEND commit "-dirty")
    endif()
  endif()
endif()

set(text "#define OBATCH_COMMIT \"${commit}\"\n")
set(before "")
if(EXISTS "${HEADER}")
  file(READ "${HEADER}" before)
endif()
if(NOT text STREQUAL before)
  file(WRITE "${HEADER}" "${text}")
endif()
