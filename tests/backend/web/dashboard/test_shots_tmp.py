"""Screenshots of the populated pages."""
import sys
sys.path.insert(0, '/work/wt-pages')
from contextlib import closing
from typing import Any
import pytest
from playwright.sync_api import Browser
from tests.backend.fake_label_studio import serving as served_at
from tests.browser import chromium
from backend.jobs.outlook import Outlook

class Fixed:
    def of(self, project, wait=1.5):
        return {
          '3': Outlook('p3-r005-lite0', True, 190, 4, 42, 42, 11, {'Lumen':42,'Fibrous cap':14,'Lipid core':9,'Vasa vasorum':3}, {'Lumen':'#2e86de','Fibrous cap':'#f6b93b','Lipid core':'#e55039','Vasa vasorum':'#78e08f'}),
          '5': Outlook(None, False, 3, 4, 3, 3, 0, {}, {}),
        }.get(project)
    def forget(self, project): pass

def test_shots(make_client, populated, registry):
    client = make_client(outlooks=Fixed())
    app = client.application
    answer = app.wsgi_app
    def whole(environ, start):
        with closing(answer(environ, start)) as body: return [b"".join(body)]
    app.wsgi_app = whole
    with served_at(app) as url, chromium() as browser:
        for size, name in (((1280,900),'desktop'), ((390,844),'phone')):
            page = browser.new_context(viewport={'width':size[0],'height':size[1]}).new_page()
            for path, what in (('','projects'), ('/projects/3','p3'), ('/projects/5','p5')):
                page.goto(f'{url}/dashboard{path}')
                page.screenshot(path=f'/tmp/w/pages/{what}-{name}.png', full_page=True)
                assert page.evaluate("document.documentElement.scrollWidth") == size[0], (what, name)
        page = browser.new_context(viewport={'width':1280,'height':900}).new_page()
        page.goto(f'{url}/dashboard/projects/3')
        page.get_by_role('button', name='What IoU means').first.click()
        page.screenshot(path='/tmp/w/pages/explain.png')
