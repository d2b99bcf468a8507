# What "cmake --install" and "cpack" put where. The binary finds the other folders from where it is itself, so that
# the whole can be moved to another prefix.

# Debian's own zsh (below /usr) looks into another folder than those that were built elsewhere.
install(CODE "
  set(OBATCH_ZSH site-functions)
  if(CMAKE_INSTALL_PREFIX STREQUAL \"/usr\")
    set(OBATCH_ZSH vendor-completions)
  endif()")

# New folders can be entered by everybody, whatever the umask of root is.
install(CODE "
  foreach(dir \"\" ${CMAKE_INSTALL_BINDIR} ${CMAKE_INSTALL_LIBDIR} ${CMAKE_INSTALL_LIBDIR}/obatch
      ${CMAKE_INSTALL_DATADIR} ${CMAKE_INSTALL_DATADIR}/obatch
      ${CMAKE_INSTALL_DATADIR}/doc ${CMAKE_INSTALL_DATADIR}/doc/obatch ${CMAKE_INSTALL_DATADIR}/bash-completion
      ${CMAKE_INSTALL_DATADIR}/bash-completion/completions ${CMAKE_INSTALL_DATADIR}/zsh
      ${CMAKE_INSTALL_DATADIR}/zsh/\${OBATCH_ZSH} ${CMAKE_INSTALL_DATADIR}/fish
      ${CMAKE_INSTALL_DATADIR}/fish/vendor_completions.d ${CMAKE_INSTALL_MANDIR} ${CMAKE_INSTALL_MANDIR}/man1)
    set(path \"\$ENV{DESTDIR}\${CMAKE_INSTALL_PREFIX}/\${dir}\")
    if(NOT EXISTS \"\${path}\" OR NOT \"\$ENV{DESTDIR}\" STREQUAL \"\")
      file(MAKE_DIRECTORY \"\${path}\")
      file(CHMOD \"\${path}\" PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE
        GROUP_READ GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)
    endif()
  endforeach()")
install(TARGETS obatch RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(TARGETS editor http httpd LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}/obatch)
install(DIRECTORY lua scripts DESTINATION ${CMAKE_INSTALL_DATADIR}/obatch
  PATTERN "*.sh" EXCLUDE PATTERN "*.part" EXCLUDE PATTERN "*~" EXCLUDE PATTERN ".*" EXCLUDE)
install(FILES README.md DESTINATION ${CMAKE_INSTALL_DATADIR}/obatch) # what help() of the REPL reads
install(FILES cmake/copyright DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/obatch)

# The completions and the manual page come from the program itself, as its scripts are at that moment. No script
# of whoever installs it gets in.
set(generated ${CMAKE_CURRENT_BINARY_DIR}/generated)
install(CODE "
  function(obatch_makes file)
    file(MAKE_DIRECTORY \"${generated}\")
    execute_process(COMMAND \"${CMAKE_COMMAND}\" -E env --unset=HOME --unset=XDG_CONFIG_HOME --unset=OBATCH_SCRIPTS
      --unset=OBATCH_HOME \"$<TARGET_FILE:obatch>\" \${ARGN} OUTPUT_FILE \"${generated}/\${file}\" RESULT_VARIABLE code)
    if(NOT code EQUAL 0)
      message(FATAL_ERROR \"obatch \${ARGN} failed: \${code}\")
    endif()
  endfunction()
  obatch_makes(obatch completion bash)
  obatch_makes(_obatch completion zsh)
  obatch_makes(obatch.fish completion fish)
  obatch_makes(obatch.1 run \"${CMAKE_CURRENT_SOURCE_DIR}/cmake/man.lua\")")
install(FILES ${generated}/obatch DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions)
install(FILES ${generated}/_obatch DESTINATION ${CMAKE_INSTALL_DATADIR}/zsh/\${OBATCH_ZSH})
install(FILES ${generated}/obatch.fish DESTINATION ${CMAKE_INSTALL_DATADIR}/fish/vendor_completions.d)
install(FILES ${generated}/obatch.1 DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)

# "cpack" in the build directory makes obatch_VERSION_ARCHITECTURE.deb.
set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_VENDOR obatch)
set(CPACK_PACKAGE_CONTACT "obatch packagers <root@localhost>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "send many requests through the OpenAI Batch API and lose none")
set(CPACK_PACKAGE_DESCRIPTION
  "obatch uploads requests, creates batches, waits, downloads, judges every answer
and resends exactly what failed, until each request has a good answer or a
recorded reason why not. It turns folders of page scans into text next to each
image, or takes a file of requests. Every decision is a Lua script that can be
read and changed.")
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION utils)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
# What Lua loads at run time, which no linker knows of, and what TLS is verified with.
set(CPACK_DEBIAN_PACKAGE_DEPENDS "lua-cjson, lua-argparse, lua-rex-pcre2, ca-certificates")
set(CPACK_DEBIAN_PACKAGE_SUGGESTS "tesseract-ocr, bash-completion")
set(CPACK_STRIP_FILES ON)
include(CPack)
